import subprocess
import sys

import pytest

from benchmarks.report.markdown import render
from benchmarks.report.sections import race
from benchmarks.report.statistics import median_reached
from zo_triton import _tables as tables


def test_methods_that_fail_stay_in_the_table(record):
    lines = race.table(record["sections"]["race"]).splitlines()
    row = next(line for line in lines if "K = 1" in line)
    assert row.count(tables.NOT_REACHED) == 3


def test_a_failed_run_counts_as_infinite(record):
    methods = record["sections"]["race"]["methods"]
    assert median_reached(methods[1]["runs"], 0.95, "seconds") == 4.2
    assert median_reached(methods[2]["runs"], 0.95, "seconds") is None


def test_any_subset_of_sections_renders(record):
    for name, section in record["sections"].items():
        alone = {**record, "sections": {name: section}}
        assert "## Where the numbers come from" in render(alone, [])


def test_tiny_runs_say_so(record):
    record["tiny"] = True
    assert "its numbers mean nothing" in render(record, [])


def test_a_busy_machine_is_told(record):
    record["environment"] |= {"cores": 2, "cores busy before": 0.1}
    assert "machine was busy" not in render(record, [])
    record["environment"]["cores busy before"] = 1.7
    assert "busy**: other programs kept 1.7 of 2 cores" in render(record, [])
    record["environment"] |= {"cores busy before": 0.1, "cores busy meanwhile": 0.9}
    assert "busy**: other programs kept 0.9 of 2 cores" in render(record, [])
    record["environment"]["cores busy meanwhile"] = 0.2
    assert "machine was busy" not in render(record, [])


def test_invalid_records_are_not_rendered(record):
    record["schema"] = 7
    with pytest.raises(ValueError, match="schema 7, newer than 1"):
        render(record, [])


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "not reached"), (0.0, "0"), (1234.5, "1234"), (0.051234, "0.0512"), (3.4e-7, "3.4e-07")],
)
def test_numbers(value, text):
    assert tables.number(value) == text


def test_reporting_does_not_reach_for_torch():
    code = (
        "import sys, benchmarks.report;"
        "raise SystemExit(bool({'torch', 'triton', 'numba'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (8.2e10, "8.2e+10"),
        (999_999.0, "999999"),
        (123.4, "123"),
        (0.012345, "0.0123"),
        (3e-7, "3.0e-07"),
        (0.0, "0"),
    ],
)
def test_numbers_are_short(value, text):
    assert tables.number(value) == text


@pytest.mark.parametrize(
    ("headers", "rows"),
    [
        (["a", "β"], [["x", "1"], ["longer text ×", "–"]]),
        (["", ""], [["commit", "`1`"]]),
        (["k", "a very long title"], [[" a ", 1], ["b", "c"]]),
    ],
)
def test_a_table_without_tabulate_has_the_same_bytes(headers, rows, monkeypatch):
    with_tabulate = tables.lay_out(headers, rows)
    monkeypatch.setattr(tables, "tabulate", None)
    assert tables.lay_out(headers, rows) == with_tabulate
