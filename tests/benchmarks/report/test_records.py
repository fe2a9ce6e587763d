import json
import os

import pytest

from benchmarks.report import new_record, read, records, write


def test_round_trip(record, tmp_path):
    write(tmp_path / "results.json", record)
    assert read(tmp_path / "results.json") == record


def test_order_survives_as_tables_follow_it(record, tmp_path):
    write(tmp_path / "results.json", record)
    parts = read(tmp_path / "results.json")["sections"]["step_split"]["cases"][0]["parts"]
    assert list(parts) == ["draw", "base", "differences", "update", "rest"]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda text: text[: len(text) // 2], "results.json is not complete JSON"),
        (lambda text: "", "results.json is not complete JSON"),
        (lambda text: "[1, 2]", "results.json is not a zo_triton report"),
        (
            lambda text: text.replace('"zo_triton report"', '"another tool"'),
            "results.json is not a zo_triton",
        ),
        (lambda text: text.replace('"schema": 1', '"schema": 99'), "schema 99, newer than 1; upgrade"),
        (lambda text: text.replace('"schema": 1', '"schema": "old"'), "has schema 'old', not 1"),
        (lambda text: text.replace('"commit"', '"comet"', 1), "results.json"),
        (lambda text: text.replace('"race"', '"rice"'), "unknown section 'rice'"),
        (lambda text: text.replace('"methods": [', '"ways": ['), r"lacks (race|memory)\.(methods|cases)"),
    ],
    ids=["half", "empty", "a list", "foreign", "newer", "odd schema", "misspelt", "section", "key"],
)
def test_bad_files_are_refused_by_name(record, tmp_path, spoil, message):
    file = tmp_path / "results.json"
    record["sections"].pop("benchmarks")
    file.write_text(spoil(records.dumps(record)))
    with pytest.raises(ValueError, match=message):
        read(file)


def test_bytes_that_are_not_text_are_refused(tmp_path):
    file = tmp_path / "results.json"
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"results.json is not complete JSON"):
        read(file)


def test_missing_environment_is_refused(record):
    del record["environment"]["threads"]
    with pytest.raises(ValueError, match=r"lacks environment.threads"):
        new_record(record["environment"], {})


def test_nan_never_reaches_the_file(record, tmp_path):
    file = tmp_path / "results.json"
    write(file, record)
    before = file.read_bytes()
    record["sections"]["step_time"]["cases"][0]["contenders"][0]["median_ms"] = float("nan")
    with pytest.raises(ValueError, match="JSON compliant"):
        write(file, record)
    assert file.read_bytes() == before


def test_a_crash_while_writing_leaves_the_old_file(record, tmp_path, monkeypatch):
    file = tmp_path / "results.json"
    write(file, record)
    before = file.read_bytes()
    record["tiny"] = True
    monkeypatch.setattr(os, "replace", lambda *names: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write(file, record)
    assert file.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["results.json"]


def test_the_file_is_plain_json(record, tmp_path):
    write(tmp_path / "results.json", record)
    assert json.loads((tmp_path / "results.json").read_text())["format"] == "zo_triton report"
