"""``torchrun -m benchmarks train --distributed``: of two processes one is killed; another goes on alone."""

import re
import time

import pytest
import torch
import torch.distributed as dist
from rank_launch import environment, free_port, process_of, torchrun
from safetensors.torch import load_file

from benchmarks import __main__ as cli
from benchmarks.train.shared_training import shared_run
from zo_triton.runlog import read

ASKED = dict.fromkeys(
    ("task", "method", "lr", "directions", "seed", "steps", "engine", "checkpoint_every", "shards")
)


@pytest.fixture
def as_rank_zero_of_one(monkeypatch, one_thread):
    """What torchrun says to a single process."""
    for name, value in environment(1, free_port(), 0).items():
        monkeypatch.setenv(name, value)


def test_without_torchrun(capsys, monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    assert cli.main(["train", "--distributed"]) == 2
    assert (
        "--distributed needs torchrun, which sets RANK: start it with torchrun --nproc"
        in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--method", "adam"],
            r"method 'adam' can't be shared among ranks; choose one of \('zo-adam', 'zo-sgd'\)",
        ),
        (["--directions", "30"], "30 directions can't be cut into 4 equal shards"),
    ],
)
def test_refusals(capsys, as_rank_zero_of_one, arguments, message):
    assert cli.main(["train", "--distributed", *arguments]) == 2
    assert not dist.is_initialized()
    assert re.search(message, capsys.readouterr().err)


def test_shards_need_ranks(capsys):
    assert cli.main(["train", "--shards", "2"]) == 2
    assert "--shards needs --distributed" in capsys.readouterr().err


def test_a_run_goes_on_as_it_began(tmp_path, capsys, as_rank_zero_of_one):
    with_ranks, without = str(tmp_path / "with"), str(tmp_path / "without")
    assert cli.main(["train", "--distributed", "--steps", "2", "--out", with_ranks]) == 0
    assert cli.main(["train", "--steps", "2", "--out", without]) == 0
    capsys.readouterr()
    assert cli.main(["train", "--resume", with_ranks]) == 2
    assert "has ranks: go on with torchrun" in capsys.readouterr().err
    assert cli.main(["train", "--distributed", "--resume", without]) == 2
    assert "has no ranks: leave --distributed out" in capsys.readouterr().err


def test_a_killed_rank_is_named_and_the_run_goes_on(tmp_path, as_rank_zero_of_one):
    """torchrun ends the other at once, which says why before it goes.

    On one rank, the bits are those that a run which nobody disturbed has.
    """
    folder = tmp_path / "run"
    log = folder / "log.zo"
    program = (
        "-m",
        "benchmarks",
        "train",
        "--distributed",
        "--steps",
        "100000",
        "--checkpoint-every",
        "40",
    )
    launcher = torchrun(2, *program, "--out", folder)
    deadline = time.monotonic() + 120
    while not (log.exists() and log.stat().st_size > 40_000):
        assert launcher.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process_of(launcher, 1).kill()
    text = launcher.communicate(timeout=60)[0]
    assert launcher.returncode == 1
    assert "rank 1 of 2 is gone: its process has ended" in text
    assert f"--resume {folder} goes on with the run" in text

    reached = read(log).end.step
    assert reached >= 60
    # As if the run had been told to stop a little later.
    settings = (folder / "run.json").read_text()
    (folder / "run.json").write_text(settings.replace("100000", str(reached + 5)))
    with shared_run(ASKED, resume_from=str(folder)) as (run, leads):
        assert leads
        assert run.done == reached
        steps = [now.step for now in run.progress]
    assert steps == list(range(reached + 1, reached + 6))
    whole = tmp_path / "whole"
    told = {**ASKED, "steps": reached + 5, "checkpoint_every": 40}
    with shared_run(told, out=str(whole)) as (run, _):
        for _ in run.progress:
            pass
    assert log.read_bytes() == (whole / "log.zo").read_bytes()
    mine, theirs = (load_file(place / "checkpoint.safetensors") for place in (folder, whole))
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
