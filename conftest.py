"""``pytest --benchmark`` here: the plugin's, whose figures go into a report."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest_plugins = ["zo_triton.pytest_plugin"]
ROOT = Path(__file__).resolve().parent


def pytest_addoption(parser):
    """Registers the option of the suite alone."""
    parser.getgroup("zo_triton").addoption(
        "--report-dir",
        metavar="DIR",
        help="with --benchmark: the report to refresh (default reports/full; none with --benchmark-tiny)",
    )


def pytest_configure(config):
    """Has the report refreshed when the session ends."""
    if config.getoption("benchmark"):
        tiny = config.getoption("benchmark_tiny")
        folder = config.getoption("report_dir") or (None if tiny else str(ROOT / "reports" / "full"))
        everything = config.args_source != pytest.Config.ArgsSource.ARGS
        filtered = bool(config.getoption("keyword") or config.getoption("markexpr"))
        refresh = _Refresh(config, folder, everything and not filtered)
        config.pluginmanager.register(refresh, "zo_triton_refresh")


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
        record = (
            read(file) if file.exists() else new_record(facts, {}, self.config.getoption("benchmark_tiny"))
        )
        entries = [
            _entry(bench, facts)
            for bench in self.config._benchmarksession.benchmarks
            if bench.fullname in self.passed - self.failed and bench.stats.data
        ]
        # After Ctrl-C the finished ones count, and those that had no turn keep their old figures.
        complete = self.complete and exitstatus != pytest.ExitCode.INTERRUPTED
        merged = merge_benchmarks(
            record, entries, self.failed, complete, self.config.getoption("benchmark_tiny")
        )
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
