"""What the command line tells of names without a framework is what the tables hold."""

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import catalogue

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("torch", "numpy", "numba", "triton", "matplotlib", "sklearn", "rich")


def without_frameworks(*arguments):
    """A command in a process where importing any of them fails."""
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({HEAVY})); sys.argv[1:] = {list(arguments)}; "
        "from benchmarks.__main__ import main; sys.exit(main())"
    )
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)


def test_the_catalogue_is_complete():
    from benchmarks.race.races import DEFAULT_RATES, RACES
    from benchmarks.race.tasks import TASKS
    from benchmarks.rates.networks import NETWORKS
    from zo_triton.ops.engines import ENGINES

    assert list(catalogue.RACES) == list(RACES)
    assert catalogue.TASKS.keys() == TASKS.keys()
    assert list(catalogue.METHODS) == list(DEFAULT_RATES)
    assert list(catalogue.NETWORKS) == list(NETWORKS)
    assert set(catalogue.ENGINES) == set(ENGINES)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("race", "minst-mlp"), "unknown race 'minst-mlp'; choose one of ('digits-mlp'"),
        (("train", "--task", "minst"), "unknown task 'minst'; choose one of ('digits'"),
        (("train", "--method", "lbfgs"), "unknown method 'lbfgs'; choose one of ('zo-adam'"),
        (("train", "--engine", "abacus"), "unknown engine 'abacus'; choose one of ('reference'"),
        (("nzk", "minst"), "invalid choice: 'minst'"),
        (("rates", "LeNet-6"), "unknown network 'LeNet-6'; choose one of ('linear regression'"),
        (("field", "--stream", "diagonals"), "unknown reading 'diagonals'; choose one of ('columns'"),
        (("start", "rnn"), "there is no program 'rnn' to warm up for; choose among mlp, fused"),
    ],
)
def test_a_wrong_name_loads_nothing(arguments, message):
    done = without_frameworks(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("command", "tables"),
    [
        ("race", (catalogue.RACES,)),
        ("train", (catalogue.TASKS, catalogue.METHODS, catalogue.ENGINES)),
        ("rates", (catalogue.NETWORKS,)),
    ],
)
def test_the_list_loads_nothing(command, tables):
    done = without_frameworks(command, "--list")
    assert done.returncode == 0, done.stderr
    for table in tables:
        for name, what in table.items():
            assert f"  {name} " in done.stdout
            assert what in done.stdout


@pytest.mark.parametrize("module", ["zo_triton", "benchmarks"])
def test_the_version_is_told(module):
    import zo_triton

    command = [sys.executable, "-m", module, "--version"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == f"zo_triton {zo_triton.__version__}\n"
