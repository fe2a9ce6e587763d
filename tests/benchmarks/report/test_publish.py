import os
import shutil
import sys

import pytest

from benchmarks.report import check_destination, figures, publish, read


def contents(folder):
    return {entry.name: entry.read_bytes() for entry in folder.iterdir()}


def test_publishing_twice_gives_the_same_bytes(whole_report, tmp_path):
    publish(read(whole_report / "results.json"), tmp_path / "second")
    first = contents(whole_report)
    assert first == contents(tmp_path / "second")
    assert {"report.md", "results.json", "race_time.svg", "race_evaluations.svg"} <= set(first)


def test_every_figure_is_shown_and_every_shown_one_exists(whole_report):
    text = (whole_report / "report.md").read_text()
    for name in contents(whole_report):
        assert not name.endswith(".svg") or f"]({name})" in text


def test_a_new_report_replaces_the_old_one_whole(short_record, tmp_path):
    publish(short_record, tmp_path / "out")
    del short_record["sections"]["accuracy"]
    publish(short_record, tmp_path / "out")
    assert "accuracy.svg" not in contents(tmp_path / "out")
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("where", ["drawing", "exchange", "first rename", "second rename"])
def test_a_crash_leaves_the_old_report(short_record, short_report, tmp_path, monkeypatch, where):
    target = tmp_path / "out"
    shutil.copytree(short_report, target)
    before = contents(target)
    short_record["environment"]["device"] = "another"
    calls = []
    rename = os.rename

    def failing(source, destination):
        calls.append(source)
        if len(calls) == (1 if where == "first rename" else 2):
            raise KeyboardInterrupt
        rename(source, destination)

    module = sys.modules["benchmarks.report.publish"]  # hidden by its function as the package's attribute
    if where == "drawing":
        monkeypatch.setattr(figures, "draw_all", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
    elif where == "exchange":
        monkeypatch.setattr(module, "exchange", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
    else:
        monkeypatch.setattr(module, "exchange", lambda *a: False)
        monkeypatch.setattr(os, "rename", failing)
    with pytest.raises(KeyboardInterrupt):
        publish(short_record, target)
    assert contents(target) == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]


def test_strangers_are_never_swept_away(short_record, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match=r"'thesis.tex', which is not part of a report"):
        publish(short_record, tmp_path)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_nothing_goes_below_a_file_and_that_is_told_at_once(tmp_path):
    (tmp_path / "file").write_text("")
    for below in ("file/out", "file/deeper/out"):
        with pytest.raises(ValueError, match="file is a file, so nothing can be written to"):
            check_destination(tmp_path / below)
    assert check_destination(tmp_path / "new" / "out") == tmp_path / "new" / "out"


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(ValueError, match="is a file, not a folder"):
        check_destination(tmp_path / "out")


def test_a_link_to_a_folder_stays_a_link(short_record, tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    publish(short_record, tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "report.md").is_file()
