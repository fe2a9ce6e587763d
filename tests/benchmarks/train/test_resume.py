"""A run that is cut off at any step goes on to the very files that it would have written."""

import json
import os
import resource
from dataclasses import asdict

import pytest
import torch

from benchmarks import __main__ as cli
from benchmarks.train.training import choose, resume, train
from zo_triton import cli as library
from zo_triton.runlog import load_checkpoint

STEPS, EVERY = 13, 5
HALVED = 4
"""The learning rate falls after steps 4, 8 and 12: before, between and after the checkpoints."""

METHODS = ("zo-adam", "zo-sgd", "mezo-adam", "mezo-1", "adam", "sgd")


def settings(method, **changes):
    return choose(
        **{
            "method": method,
            "directions": 4,
            "steps": STEPS,
            "checkpoint_every": EVERY,
            "halve_after": HALVED,
            **changes,
        }
    )


def straight(method, folder, **changes):
    for _ in train(settings(method, **changes), folder).progress:
        pass
    return files(folder)


def files(folder):
    """Weights, state and log: all bytes but those of the settings."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def cut(run, steps):
    """Takes some steps and drops the run, as an interrupt would."""
    for now in run.progress:
        if now.step == steps:
            break
    run.progress.close()


# Before the first checkpoint, on one, and between two; twice in a run.
@pytest.mark.parametrize("cuts", [(2,), (5,), (7, 12)], ids=str)
@pytest.mark.parametrize("method", METHODS)
def test_every_method_goes_on_bit_identical(method, cuts, tmp_path):
    expected = straight(method, tmp_path / "straight")
    assert ("log.zo" in expected) is method.startswith("zo-")
    cut(train(settings(method), tmp_path / "cut"), cuts[0])
    for steps in cuts[1:]:
        cut(resume(tmp_path / "cut"), steps)
    run = resume(tmp_path / "cut")
    assert run.done == (cuts[-1] if method.startswith("zo-") else cuts[-1] // EVERY * EVERY)
    assert [now.step for now in run.progress] == list(range(run.done + 1, STEPS + 1))
    assert files(tmp_path / "cut") == expected


def test_the_general_way_goes_on_bit_identical(tmp_path):
    changes = {"task": "tiny-gpt", "steps": 5, "checkpoint_every": 2}
    expected = straight("zo-adam", tmp_path / "straight", **changes)
    cut(train(settings("zo-adam", **changes), tmp_path / "cut"), 3)
    for _ in resume(tmp_path / "cut").progress:
        pass
    assert files(tmp_path / "cut") == expected


def test_a_run_killed_before_its_first_files_begins_again(tmp_path):
    expected = straight("zo-sgd", tmp_path / "straight")
    for names in (("run.json",), ("run.json", "initial.safetensors")):
        folder = tmp_path / str(len(names))
        folder.mkdir()
        for name in names:
            (folder / name).write_bytes(expected[name])
        (folder / ".checkpoint.safetensors.x.tmp").write_text("half of one")
        for _ in resume(folder).progress:
            pass
        assert files(folder) == expected


def test_a_finished_run_has_nothing_left_to_do(tmp_path):
    expected = straight("zo-adam", tmp_path)
    assert list(resume(tmp_path).progress) == []
    assert files(tmp_path) == expected


def test_other_settings_are_refused_by_name(tmp_path):
    straight("zo-adam", tmp_path)
    for name, value, known in (
        ("lr", 0.5, "0.02"), ("directions", 8, "4"), ("seed", 1, "0"), ("method", "sgd", "'zo-adam'"),
        ("task", "mnist-mlp", "'digits'"), ("halve_after", 3, "4"), ("engine", "cpu", "None"),
        ("checkpoint_every", 6, "5"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=f"{name} is {known} in .*, got {value!r}"):
            resume(tmp_path, **{name: value})
    run = resume(tmp_path, seed=0, method="zo-adam")
    assert (run.done, list(run.progress)) == (STEPS, [])


def _spoil_settings(folder):
    (folder / "run.json").write_text("{")


def _lose_a_setting(folder):
    saved = json.loads((folder / "run.json").read_text())
    del saved["lr"]
    (folder / "run.json").write_text(json.dumps(saved))


def _change_the_data(folder):
    saved = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**saved, "data": "mnist"}))


def _flip(name):
    def spoil(folder):
        data = bytearray((folder / name).read_bytes())
        data[-9] ^= 1
        (folder / name).write_bytes(data)

    return spoil


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "run.json").unlink(), "holds no run: .*run.json is missing"),
        (_spoil_settings, "run.json is damaged"),
        (_lose_a_setting, "run.json must hold"),
        (_change_the_data, "trains on 'mnist', and 'digits' is what is here"),
        (lambda folder: (folder / "log.zo").unlink(), "log.zo is missing, without which"),
        (_flip("log.zo"), "log.zo is damaged at step 12"),
        (_flip("checkpoint.safetensors"), "does not match its digest"),
    ],
)
def test_a_spoilt_folder_is_refused_and_left_as_it_is(spoil, message, tmp_path):
    straight("zo-adam", tmp_path)
    spoil(tmp_path)
    before = files(tmp_path)
    with pytest.raises(ValueError, match=message):
        resume(tmp_path)
    assert files(tmp_path) == before


OTHERS = {
    "seed": {"seed": 1},
    "rate": {"lr": 0.5},
    "directions": {"directions": 2},
}


SWAPS = [
    *((name, other) for name in ("run.json", "log.zo", "checkpoint.safetensors") for other in OTHERS),
    ("initial.safetensors", "seed"),  # the others began with the same weights
]


@pytest.mark.parametrize(("name", "other"), SWAPS)
def test_another_run_s_file_is_refused(name, other, tmp_path):
    straight("zo-adam", tmp_path / "own")
    theirs = straight("zo-adam", tmp_path / "other", **OTHERS[other])
    (tmp_path / "own" / name).write_bytes(theirs[name])
    before = files(tmp_path / "own")
    with pytest.raises(ValueError, match="another run's"):
        resume(tmp_path / "own")
    assert files(tmp_path / "own") == before


def test_damaged_first_weights_are_noticed(tmp_path):
    straight("adam", tmp_path)
    _flip("initial.safetensors")(tmp_path)
    with pytest.raises(ValueError, match=r"initial\.safetensors does not hold the weights"):
        resume(tmp_path)


@pytest.mark.parametrize("method", ["zo-adam", "adam"])
def test_a_second_process_is_refused_before_it_touches_anything(method, tmp_path):
    run = train(settings(method), tmp_path)
    next(run.progress)
    (tmp_path / ".checkpoint.safetensors.x.tmp").write_text("the live run is writing it")
    before = files(tmp_path)
    with pytest.raises(ValueError, match="another process is at work"):
        resume(tmp_path)
    assert files(tmp_path) == before
    run.progress.close()


def test_the_command_line_from_end_to_end(tmp_path, capsys):
    folder = tmp_path / "run"
    told = ["train", "--directions", "4", "--steps", "12", "--out", str(folder), "--checkpoint-every", "5"]
    told += ["--halve-after", "5"]
    assert cli.main(told) == 0
    assert cli.main(told) == 2
    assert f"holds a run already (run.json); go on with --resume {folder}" in capsys.readouterr().err
    assert cli.main(["train", "--resume", str(folder)]) == 0
    assert "going on after step 12 of 12" in capsys.readouterr().out
    assert cli.main(["train", "--resume", str(folder), "--lr", "1"]) == 2
    assert "lr is 0.02" in capsys.readouterr().err
    log, start, end = (str(folder / name) for name in ("log.zo", "initial.safetensors", "end.safetensors"))
    assert library.main(["replay", log, "--inspect"]) == 0
    assert "bytes a step: 36 (4 for each of 4 coefficients and 20)" in capsys.readouterr().out
    assert library.main(["replay", log, "--verify", "--from", start]) == 0
    assert capsys.readouterr().out.startswith("intact: 12 steps\n")
    assert library.main(["replay", log, "--from", start, "--out", end, "--engine", "cpu"]) == 0
    from zo_triton.runlog import load_weights

    found, expected = load_weights(end), load_checkpoint(folder / "checkpoint.safetensors").weights
    assert {name: weight.tolist() for name, weight in found.items()} == {
        name: weight.tolist() for name, weight in expected.items()
    }
    assert library.main(["replay", log, "--verify", "--from", end]) == 2
    assert "the run began with" in capsys.readouterr().err


def test_an_interrupt_tells_how_to_go_on(tmp_path, capsys, monkeypatch):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("zo_triton.FusedTrainer.step", interrupted)
    assert cli.main(["train", "--out", str(tmp_path)]) == 130
    assert f"go on with: python -m benchmarks train --resume {tmp_path}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--out", "a", "--resume", "b"], "not allowed with argument"),
        (["train", "--resume", "nowhere"], "nowhere holds no run"),
        (["train", "--intact-prefix"], "--intact-prefix needs --resume DIR"),
        (["train", "--checkpoint-every", "5"], "--checkpoint-every needs --out DIR"),
        (
            ["train", "--out", "a", "--checkpoint-every", "0"],
            "checkpoint_every must be at least 1 step, got 0",
        ),
        (["replay", "log.zo"], "replay needs --from FILE and --out FILE"),
        (["replay", "nowhere.zo", "--inspect"], "there is no file or folder nowhere.zo"),
        (["replay", "/", "--inspect"], "/ is a folder; name a file."),
    ],
)
def test_mistakes_get_one_line_and_code_2(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    try:
        code = (library if arguments[0] == "replay" else cli).main(arguments)
    except SystemExit as stop:
        code = stop.code
    error = capsys.readouterr().err
    assert code == 2
    assert error.count("\n") == 1
    assert message in error
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written(tmp_path, capsys):
    (tmp_path / "file").write_text("stays")
    assert cli.main(["train", "--out", str(tmp_path / "file" / "run"), "--steps", "2"]) == 2
    assert "Not a directory" in capsys.readouterr().err
    assert (tmp_path / "file").read_text() == "stays"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder(tmp_path, capsys):
    tmp_path.chmod(0o500)
    assert cli.main(["train", "--out", str(tmp_path), "--steps", "2"]) == 2
    assert "Permission denied" in capsys.readouterr().err


def test_a_full_disk_stops_training_and_the_run_goes_on_later(tmp_path, capsys):
    """Where the log outgrows the checkpoint, it fails; where the checkpoint is larger, that does."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    for directions, file, message in (
        (4096, "log.zo", "step 6 could not be written to the log"),
        (4, "checkpoint.safetensors", "the checkpoint after step 10 could not be written"),
    ):
        folder, told = tmp_path / str(directions), settings("zo-adam", directions=directions)
        expected = straight("zo-adam", tmp_path / f"straight-{directions}", directions=directions)
        cut(train(told, folder), 6)
        before = files(folder)
        room = len(before[file]) + (100 if file == "log.zo" else -100)
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
        try:
            assert cli.main(["train", "--resume", str(folder)]) == 2
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert message in capsys.readouterr().err
        assert files(folder)["checkpoint.safetensors"] == before["checkpoint.safetensors"]
        assert files(folder).keys() == before.keys()
        for _ in resume(folder).progress:
            pass
        assert files(folder) == expected


@pytest.mark.parametrize("method", ["zo-adam", "sgd"])
def test_a_finished_run_is_made_longer(method, tmp_path):
    expected = straight(method, tmp_path / "straight")
    straight(method, tmp_path / "longer", steps=7)
    for _ in resume(tmp_path / "longer", steps=STEPS).progress:
        pass
    assert files(tmp_path / "longer") == expected


def test_a_learning_rate_falls_in_stairs():
    told = settings("sgd", lr=0.6)
    assert [told.rate_at(step) for step in (1, 4, 5, 8, 9, 13)] == [0.6, 0.6, 0.3, 0.3, 0.6 / 3, 0.6 / 4]
    assert settings("sgd", lr=0.6, halve_after=0).rate_at(10**6) == 0.6
    with pytest.raises(
        ValueError, match="halve_after must not be negative, got -1; 0 keeps the learning rate"
    ):
        settings("sgd", halve_after=-1)


@pytest.mark.parametrize("method", METHODS)
def test_each_method_takes_the_rate_that_it_is_told(method, tmp_path):
    """From step 5 on, with a rate of nothing, no weight moves beyond the rounding of MeZO's there and back."""

    class Stopping(type(settings(method))):
        def rate_at(self, step):
            return 0.0 if step > 4 else self.lr

    stopping = Stopping(**asdict(settings(method)))
    for _ in train(stopping, tmp_path / "stopped").progress:
        pass
    straight(method, tmp_path / "short", steps=4)
    ends = [
        load_checkpoint(tmp_path / name / "checkpoint.safetensors").weights for name in ("stopped", "short")
    ]
    for name, weight in ends[1].items():
        torch.testing.assert_close(ends[0][name], weight, rtol=0, atol=1e-4 if "mezo" in method else 0)


def test_a_run_from_before_rates_fell_keeps_its_own(tmp_path):
    straight("zo-adam", tmp_path, halve_after=0)
    saved = json.loads((tmp_path / "run.json").read_text())
    assert saved.pop("halve_after") == 0
    (tmp_path / "checkpoint.safetensors").unlink()  # whose name was made of the settings that there were
    (tmp_path / "run.json").write_text(json.dumps(saved))
    run = resume(tmp_path)
    assert (run.done, run.settings.halve_after, list(run.progress)) == (STEPS, 0, [])


def test_a_run_is_not_made_shorter(tmp_path):
    straight("sgd", tmp_path)
    with pytest.raises(ValueError, match=rf"has {STEPS} steps, got --steps 3; a run can be made longer"):
        resume(tmp_path, steps=3)
