"""``pytest --benchmark`` in a repository that is not this one, with the file of the documentation."""

import json
import os
import re
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

pytest.importorskip("pytest_benchmark")

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "benchmarks.md"
PLUGIN = "zo_triton.pytest_plugin"
NAMED = [] if any(each.name == PLUGIN for each in entry_points(group="pytest11")) else ["-p", PLUGIN]
"""Where the library is run from a checkout that was installed before it had the plugin, pytest is told of it."""

ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}


@pytest.fixture
def repository(tmp_path):
    """With a test, a benchmark, and nothing of this project."""
    (block,) = re.findall(
        r"```python\n(# bench_step\.py\n.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL
    )
    (tmp_path / "pyproject.toml").write_text("[tool.pytest.ini_options]\n")
    (tmp_path / "bench_step.py").write_text(block)
    (tmp_path / "test_it.py").write_text("def test_it():\n    pass\n")
    return tmp_path


def run(folder, *arguments):
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *NAMED, *arguments],
        cwd=folder, env={**ENVIRONMENT, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip


def test_the_documented_benchmark_runs(repository):
    done = run(repository, "--benchmark", "--benchmark-tiny", "--benchmark-json=out.json")
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((repository / "out.json").read_text())["benchmarks"]
    assert {each["group"] for each in found} == {"step"}
    assert all(each["extra_info"]["first_call_ms"] > 0 and "K" in each["extra_info"] for each in found)
    assert "test_it" not in done.stdout


def test_a_folder_of_that_name_is_taken(repository):
    (repository / "benchmarks").mkdir()
    (repository / "benchmarks" / "bench_other.py").write_text("def bench_other():\n    pass\n")
    done = run(repository, "--benchmark", "--collect-only", "-q")
    assert done.stdout.splitlines()[0] == "benchmarks/bench_other.py::bench_other"
    assert "bench_step" not in done.stdout


def test_without_the_option_it_is_silent_and_loads_nothing(repository):
    (repository / "test_it.py").write_text(
        "import sys\ndef test_it():\n    assert not {'torch', 'numpy', 'numba'} & sys.modules.keys()\n"
    )
    done = run(repository, "-q", "-p", "no:benchmark")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout
    assert "zo_triton" not in done.stdout


def test_a_red_gate_times_nothing(repository):
    (repository / "conftest.py").write_text(
        "import pytest, zo_triton.nzk as nzk\n"
        "@pytest.fixture(autouse=True, scope='session')\n"
        "def spoilt():\n"
        "    real, nzk.check = nzk.check, lambda steps: real(steps, tolerance=1e-30)\n"
    )
    done = run(repository, "--benchmark", "--benchmark-tiny")
    assert done.returncode == 1
    assert "nothing is timed: a linear model's training leaves the kernel recursion, FAILED" in done.stdout


def test_the_library_loads_no_pytest():
    code = (
        "import sys, zo_triton as zo\nfor name in zo.__all__: getattr(zo, name)\n"
        "assert 'pytest' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_pytest_finds_it_by_the_name_that_a_conftest_would_use():
    """Else a repository whose conftest names the plugin would have it twice, which pytest refuses."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert f'[project.entry-points.pytest11]\n"{PLUGIN}" = "{PLUGIN}"\n' in text
