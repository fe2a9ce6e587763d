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


@pytest.mark.parametrize("content", ["[{", "{}x", "[1]", '[{"commit": "a"}]'])
def test_a_damaged_history_is_named_and_nothing_changes(record, tmp_path, content):
    folder = tmp_path / "report"
    publish(record, folder)
    (folder / history.NAME).write_text(content)
    before = (folder / "report.md").read_bytes()
    with pytest.raises(ValueError, match=r"history\.json is no history of reports"):
        publish(record, folder)
    assert (folder / "report.md").read_bytes() == before
