"""``pytest --benchmark`` in any repository: runs its ``bench_*.py`` under pytest-benchmark, each behind a gate.

Installed with the library and found by pytest. Without the option it adds two lines to ``--help`` and nothing else:
no library beyond pytest is loaded for it.

    def bench_step(zo_measure, zo_tiny):
        step = ...
        zo_measure("step", step, K=64)
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import pytest

TERSE = {"columns": ["median", "min", "rounds"], "group_by": "group", "sort": "name"}
FULL = {**TERSE, "max_time": "0.5", "min_rounds": 5, "min_time": "0.000005", "disable_gc": True}
TINY = {**FULL, "max_time": "0.01", "min_rounds": 2}
"""What pytest-benchmark is set to, unless the command line says otherwise."""

FOLDER = "benchmarks"
"""Where benchmarks are looked for if nothing is named and the repository has such a folder."""

BESIDE = ("conftest.py", "__init__.py")
"""Files beside benchmarks that pytest needs."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Registers the options; pytest-benchmark's own all have longer names."""
    group = parser.getgroup("zo_triton")
    group.addoption("--benchmark", action="store_true", help="run bench_*.py instead of the tests")
    group.addoption(
        "--benchmark-tiny", action="store_true", help="with --benchmark: small shapes, few rounds, for CI"
    )


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Points pytest at the benchmarks and sets pytest-benchmark up before it reads its options."""
    if not config.getoption("benchmark"):
        return
    if not config.pluginmanager.hasplugin("benchmark"):
        raise pytest.UsageError("--benchmark needs pytest-benchmark: pip install pytest-benchmark")
    config.addinivalue_line("python_files", "bench_*.py")
    config.addinivalue_line("python_functions", "bench_")
    # A red gate or Ctrl-C ends a benchmark before its timing starts, which is no news of its own.
    config.addinivalue_line("filterwarnings", "ignore:Benchmark fixture was not used at all")
    if config.args_source != pytest.Config.ArgsSource.ARGS:  # nothing is named
        folder = config.rootpath / FOLDER
        config.args = [str(folder if folder.is_dir() else config.rootpath)]
    # What the command line already says stays: only pytest-benchmark's own defaults are replaced.
    given = " ".join(config.invocation_params.args)
    for name, value in (TINY if config.getoption("benchmark_tiny") else FULL).items():
        if f"--benchmark-{name.replace('_', '-')}" not in given:
            setattr(config.option, f"benchmark_{name}", value)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """With the option tests are no benchmarks."""
    if not config.getoption("benchmark") or collection_path.suffix != ".py":
        return None
    name = collection_path.name
    return None if name.startswith("bench_") or name in BESIDE else True


@pytest.fixture
def zo_tiny(request: pytest.FixtureRequest) -> bool:
    """Whether small shapes are wanted."""
    return request.config.getoption("benchmark_tiny")


@pytest.fixture(scope="session")
def zo_gate(request: pytest.FixtureRequest) -> None:
    """No speed on a red gate: training must follow the theory's recursion before anything is timed."""
    from zo_triton.nzk import check

    found = check(5 if request.config.getoption("benchmark_tiny") else 100)
    if not found.passed:
        pytest.fail(f"nothing is timed: a linear model's training leaves the kernel recursion, {found}.")


@pytest.fixture
def zo_measure(benchmark: Any, zo_gate: object) -> Callable[..., Any]:
    """Times an action after two untimed calls, the first of which compiles; its seconds are told apart.

    ``zo_measure(group, action, **extra)`` returns pytest-benchmark's fixture; ``extra`` stands in its records.
    """

    def run(group: str, action: Callable[[], Any], **extra: Any) -> Any:
        start = perf_counter()
        action()
        first = perf_counter() - start
        action()
        benchmark.group = group
        benchmark.extra_info.update(extra, first_call_ms=float(f"{1000 * first:.3g}"))
        benchmark(action)
        return benchmark

    return run
