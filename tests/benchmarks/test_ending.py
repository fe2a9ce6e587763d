"""What a long command prints at its end."""

from pathlib import Path

import pytest
from documents import committed

from benchmarks.commands.ending import tell_end
from benchmarks.report import read


@pytest.fixture
def record(tmp_path):
    target = tmp_path / "results.json"
    target.write_text(committed("reports/latest/results.json"), encoding="utf-8")
    return read(target)


def test_what_was_found_how_long_it_took_and_where_it_is(record, capsys):
    tell_end(record, Path("there/report.md"), 216.0)
    *found, last = capsys.readouterr().out.splitlines()
    assert last == "wrote there/report.md and report.html after 4 min"
    assert found[0].startswith("- 95 % test accuracy on digits-mlp, median of 3 seeds: fused ZO")
    listed, lost = found[: found.index("Where fused lost")], found[found.index("Where fused lost") + 1 :]
    assert all(line.lstrip().startswith("- ") for line in listed)
    assert all(line.startswith("| ") or line.startswith("|-") for line in lost)
    assert not any("**" in line for line in found)
    assert len(found) == len(set(found)) > 3


def test_a_tiny_run_has_found_nothing(record, capsys):
    tell_end({**record, "tiny": True}, Path("there/report.md"), 7.0)
    assert capsys.readouterr().out.splitlines() == [
        "A tiny run: everything works, and the numbers mean nothing.",
        "wrote there/report.md and report.html after 5 s",
    ]
