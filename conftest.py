"""``pytest --benchmark``: runs benchmarks/ under pytest-benchmark and refreshes the report."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent
TERSE = {"columns": ["median", "min", "rounds"], "group_by": "group", "sort": "name"}
FULL = {**TERSE, "max_time": "0.5", "min_rounds": 5, "min_time": "0.000005", "disable_gc": True}
TINY = {**FULL, "max_time": "0.01", "min_rounds": 2}


def pytest_addoption(parser):
    """Registers the options; pytest-benchmark's own all have longer names."""
    group = parser.getgroup("zo_triton")
    group.addoption("--benchmark", action="store_true", help="run benchmarks/ instead of the tests")
    group.addoption("--tiny", action="store_true", help="with --benchmark: small shapes, few rounds, for CI")
    group.addoption(
        "--report-dir",
        metavar="DIR",
        help="with --benchmark: the report to refresh (default reports/full; none with --tiny)",
    )


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config):
    """Points pytest at benchmarks/ and sets pytest-benchmark up before it reads its options."""
    if not config.getoption("benchmark"):
        return
    if not config.pluginmanager.hasplugin("benchmark"):
        raise pytest.UsageError("--benchmark needs pytest-benchmark: pip install -e '.[suite]'")
    config.addinivalue_line("python_files", "bench_*.py")
    config.addinivalue_line("python_functions", "bench_")
    # A red gate or Ctrl-C ends a benchmark before its timing starts, which is no news of its own.
    config.addinivalue_line("filterwarnings", "ignore:Benchmark fixture was not used at all")
    everything = config.args_source != pytest.Config.ArgsSource.ARGS
    if everything:
        config.args = [str(ROOT / "benchmarks")]
    # What the command line already says stays: only pytest-benchmark's own defaults are replaced.
    given = " ".join(config.invocation_params.args)
    for name, value in (TINY if config.getoption("tiny") else FULL).items():
        if f"--benchmark-{name.replace('_', '-')}" not in given:
            setattr(config.option, f"benchmark_{name}", value)
    chosen = config.getoption("report_dir")
    folder = chosen or (None if config.getoption("tiny") else str(ROOT / "reports" / "full"))
    filtered = bool(config.getoption("keyword") or config.getoption("markexpr"))
    config.pluginmanager.register(_Refresh(config, folder, everything and not filtered), "zo_triton_refresh")


class _Refresh:
    """Collects which benchmarks passed, and puts their figures into the report when the session ends."""

    def __init__(self, config, folder, complete):
        self.config, self.folder, self.complete = config, folder, complete
        self.passed, self.failed = set(), set()
        if folder is not None:
            from benchmarks.report import check_destination

            try:
                check_destination(folder)
            except ValueError as error:
                raise pytest.UsageError(str(error)) from error

    def pytest_runtest_logreport(self, report):
        if report.failed:
            self.failed.add(report.nodeid)
        elif report.when == "call" and report.passed:
            self.passed.add(report.nodeid)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session, exitstatus):
        if self.folder is None or not self.passed | self.failed:
            return
        terminal = self.config.pluginmanager.getplugin("terminalreporter")
        try:
            terminal.write_line(f"\nrefreshed {self._refresh(exitstatus)}")
        except (ValueError, OSError) as error:
            terminal.write_line(f"\nreport not refreshed: {error}", red=True)
            session.exitstatus = exitstatus or pytest.ExitCode.TESTS_FAILED

    def _refresh(self, exitstatus):
        from benchmarks.report import merge_benchmarks, new_record, publish, read
        from zo_triton._machine import environment

        facts = environment(seed=0)
        file = Path(self.folder) / "results.json"
        record = read(file) if file.exists() else new_record(facts, {}, self.config.getoption("tiny"))
        entries = [
            _entry(bench, facts)
            for bench in self.config._benchmarksession.benchmarks
            if bench.fullname in self.passed - self.failed and bench.stats.data
        ]
        # After Ctrl-C the finished ones count, and those that had no turn keep their old figures.
        complete = self.complete and exitstatus != pytest.ExitCode.INTERRUPTED
        merged = merge_benchmarks(record, entries, self.failed, complete, self.config.getoption("tiny"))
        return publish(merged, self.folder)


def _entry(bench, facts):
    return {
        "id": bench.fullname,
        "group": bench.group or "other",
        "name": bench.name.removeprefix("bench_"),
        "median_ms": float(f"{1000 * bench.stats.median:.4g}"),
        "min_ms": float(f"{1000 * bench.stats.min:.4g}"),
        "rounds": len(bench.stats.data),
        "extra": dict(bench.extra_info),
        **{key: facts[key] for key in ("commit", "dirty", "date", "threads")},
    }
