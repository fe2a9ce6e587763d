"""``pytest --benchmark`` in a repository that knows nothing of this one: the wheel registers the plugin."""

import json

import pytest
from environments import ask, install, run

BENCHMARK = """
def bench_sum(zo_measure, zo_tiny):
    numbers = list(range(10 if zo_tiny else 1000))
    zo_measure("sums", lambda: sum(numbers), terms=len(numbers))
"""


@pytest.fixture
def pytest_of(installed, tmp_path):
    """Runs pytest in that repository, by its module: an environment that borrows has no program of it."""
    (tmp_path / "bench_sums.py").write_text(BENCHMARK)
    (tmp_path / "test_sums.py").write_text("def test_sums():\n    assert sum([1, 2]) == 3\n")
    python = installed.program("python")
    if installed.name != "borrowing":
        install("pytest", python)
    return lambda *arguments: ask(python, "-m", "pytest", *arguments, cwd=tmp_path)


def test_tests_run_as_before(pytest_of):
    done = pytest_of("-q")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout


def test_what_is_missing_is_named(pytest_of):
    done = pytest_of("--benchmark", "-p", "no:benchmark")
    assert done.returncode == 4
    assert "--benchmark needs pytest-benchmark: pip install pytest-benchmark" in done.stderr


def test_benchmarks_run(pytest_of, installed, tmp_path):
    if installed.name != "borrowing":
        run(installed.program("python"), "-m", "pip", "install", "--quiet", "pytest-benchmark")
    done = pytest_of("--benchmark", "--benchmark-tiny", "--benchmark-json=out.json")
    assert done.returncode == 0, done.stdout + done.stderr
    (found,) = json.loads((tmp_path / "out.json").read_text())["benchmarks"]
    assert (found["group"], found["extra_info"]["terms"]) == ("sums", 10)
