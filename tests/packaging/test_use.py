"""What a user does with an installed package: far from any checkout, without what only development needs.

Also as somebody without a home and without a place to write, as in a container with a foreign user's number.
"""

import shutil
import subprocess

import pytest
from environments import PREPARED, ask, run

TRAIN = """
import sys, torch, zo_triton as zo
from zo_triton.runlog import save_weights
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
x, y = torch.randn(16, 5), torch.randint(3, (16,))
save_weights(dict(model.named_parameters()), "initial.safetensors")
opt = zo.ZOSGD(model.named_parameters(), lr=0.1, directions=16, seed=0, distribution="gaussian")
with zo.use_engine(sys.argv[1]), zo.ReplayLog.start("log.zo", opt):
    losses = [opt.step(lambda: torch.nn.functional.cross_entropy(model(x), y)) for _ in range(12)]
save_weights(dict(model.named_parameters()), "final.safetensors")
assert losses[-1] < losses[0]
"""

FIELD = """
import torch, zo_triton as zo
for distribution in ("rademacher", "gaussian", "uniform", "laplace", "sphere"):
    drawn = []
    for engine in ("cpu", "reference"):
        with zo.use_engine(engine):
            drawn.append(zo.sample(zo.Directions(3, 1, 4, distribution), 0, (7, 33)))
    assert torch.allclose(*drawn, atol=1e-5), distribution
"""

THEORY = """
import zo_triton as zo
found = zo.nzk.check(20)
assert found.passed, found
"""

CONFORMANCE = """
import zo_triton as zo
zo.testing.weights_are_restored(zo.testing.zosgd_black_box)
zo.testing.update_follows_the_evaluations(zo.testing.zosgd_black_box)
"""

WITHOUT_MATPLOTLIB = """
import sys
sys.modules["matplotlib"] = None
from zo_triton.cli import main
sys.exit(main())
"""

HOMELESS = """
import os, zo_triton as zo
print(os.path.expanduser("~"), zo.sample(zo.Directions(0, 0, 2), 0, (3,)).tolist())
"""

STRANGER = ("unshare", "--user", "--map-user=54321", "--map-group=54321")
"""Runs a command as a user whom the system doesn't know, and who may not write to root's files."""


def test_it_is_not_the_checkout_s(installed, tmp_path):
    where = installed.run("import zo_triton; print(zo_triton.__file__)", cwd=tmp_path)
    assert where.startswith(str(installed.folder))


def test_every_command_helps(installed, tmp_path):
    program = installed.program("zo-triton")
    assert "replay" in run(program, "--help", cwd=tmp_path)
    for command in ("replay", "compile", "tune", "warmup"):
        assert f"zo-triton {command}" in run(program, command, "--help", cwd=tmp_path)
    assert (
        run(installed.program("python"), "-m", "zo_triton", "--version", cwd=tmp_path) == "zo_triton 0.1.0\n"
    )


@pytest.mark.parametrize("engine", ["reference", "cpu"])
def test_training_is_replayed(installed, engine, tmp_path):
    installed.run(TRAIN, engine, cwd=tmp_path)
    command = installed.program("zo-triton")
    assert "intact: 12 steps" in run(command, "replay", "log.zo", "--verify", cwd=tmp_path)
    files = ("log.zo", "--from", "initial.safetensors", "--out", "again.safetensors", "--engine", engine)
    run(command, "replay", *files, cwd=tmp_path)
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "final.safetensors").read_bytes()


@pytest.mark.parametrize("program", [FIELD, THEORY, CONFORMANCE], ids=["field", "nzk", "conformance"])
def test_the_library_s_parts_work(installed, program, tmp_path):
    installed.run(program, cwd=tmp_path)


def test_kernels_are_compiled_for_chips_that_are_not_here(installed, tmp_path):
    command = (installed.program("zo-triton"), "compile", "--target", "sm_90", "--kernel", "stage signs")
    table = run(*command, "--defaults", "--json", "record.json", cwd=tmp_path)
    assert "stage signs" in table
    assert (tmp_path / "record.json").is_file()


def test_tuning_says_what_it_lacks(installed, tmp_path):
    assert "finds no GPU" in run(installed.program("zo-triton"), "tune", cwd=tmp_path) or shutil.which(
        "nvidia-smi"
    )


@pytest.mark.parametrize("option", [("--figure", "clocks.svg"), ("--out", "folder")])
def test_figures_say_that_they_need_matplotlib(installed, option, tmp_path):
    done = ask(installed.program("python"), "-c", WITHOUT_MATPLOTLIB, "compile", *option, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.endswith("error: figures are drawn with matplotlib: pip install matplotlib.\n")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def read_only(installed):
    """The environment, in which nothing can be changed meanwhile."""
    subprocess.run(["chmod", "-R", "a-w", installed.folder], check=True)
    yield installed
    subprocess.run(["chmod", "-R", "u+w", installed.folder], check=True)


def test_a_stranger_needs_no_home_and_leaves_nothing_behind(read_only, tmp_path):
    """Neither beside the package nor in a folder named ~, but in the system's temporary folder."""
    if ask(*STRANGER, "true").returncode:
        pytest.skip("no user namespaces here, in which a process can be a stranger")
    here, scratch = tmp_path / "here", tmp_path / "scratch"
    here.mkdir(), scratch.mkdir()
    places = {"HOME", "XDG_CACHE_HOME", "ZO_TRITON_CACHE", "TRITON_CACHE_DIR", "TRITON_HOME"}
    variables = {name: value for name, value in PREPARED.items() if name not in places}
    where = {"cwd": here, "variables": {**variables, "TMPDIR": str(scratch)}}
    compiling = ("compile", "--target", "sm_90", "--kernel", "stage signs", "--defaults")
    assert "stage signs" in run(*STRANGER, read_only.program("zo-triton"), *compiling, **where)
    done = ask(*STRANGER, read_only.program("python"), "-c", HOMELESS, **where)
    assert done.stdout == "~ [[1.0, -1.0, 1.0], [1.0, -1.0, -1.0]]\n", done.stderr
    assert f"CPU kernels are kept in {scratch}" in done.stderr
    assert list(here.iterdir()) == []
