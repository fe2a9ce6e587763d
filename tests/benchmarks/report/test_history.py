import copy
import json

import pytest

from benchmarks.report import history, publish, read


def test_an_entry_has_the_headlines(record):
    figures = history.entry_of(record)["figures"]
    assert {"step ms", "MeZO over fused", "digits s", "digits over backprop"} <= set(figures)
    assert figures["digits over backprop"] > 1
    record["tiny"] = True
    assert history.entry_of(record) is None


@pytest.mark.usefixtures("undrawn")
def test_reports_of_other_commits_stay_and_the_same_one_is_replaced(record, tmp_path):
    folder = tmp_path / "report"
    publish(record, folder)
    assert "## History" not in (folder / "report.md").read_text()
    later = copy.deepcopy(record)
    later["environment"]["commit"] = "fedcba9876543210"
    publish(later, folder)
    publish(later, folder)
    entries = json.loads((folder / history.NAME).read_text())
    assert [entry["commit"] for entry in entries] == [record["environment"]["commit"], "fedcba9876543210"]
    text = (folder / "report.md").read_text()
    assert text.count("`fedcba987`") >= 1
    assert "## History" in text
    assert read(folder / "results.json") == later


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("content", ["[{", "{}x", "[1]", '[{"commit": "a"}]'])
def test_a_damaged_history_is_named_and_nothing_changes(short_record, tmp_path, content):
    folder = tmp_path / "report"
    publish(short_record, folder)
    (folder / history.NAME).write_text(content)
    before = (folder / "report.md").read_bytes()
    with pytest.raises(ValueError, match=r"history\.json is no history of reports"):
        publish(short_record, folder)
    assert (folder / "report.md").read_bytes() == before


def entry(figures):
    return {"commit": "0123456789", "dirty": False, "date": "2026-01-01", "device": "a", "figures": figures}


def test_a_race_has_one_line_whatever_data_stood_in():
    entries = [entry({"nzk s": 4.0}), entry({"nzk (on digits 3 v 5) s": 1.0}), entry({"nzk s": 2.0})]
    _, _, trend, _, commits, note = history.render(entries)
    assert [cell.strip() for cell in trend.splitlines()[2].split("|")[1:-1]] == ["nzk s", "█▁▅", "2", "1 – 4"]
    assert len(trend.splitlines()) == 3
    assert [line.split("|")[4].strip() for line in commits.splitlines()[2:]] == ["4", r"1\*", "2"]
    assert note == r"\*: (on digits 3 v 5)."


@pytest.mark.parametrize(
    ("values", "text"),
    [([1.0, 10.0, 100.0], "▁▅█"), ([1.0, None, 100.0], "▁ █"), ([3.0, 3.0], "▁▁"), ([None], "")],
)
def test_a_sparkline_is_as_high_as_logarithms(values, text):
    assert history.sparkline(values) == text
