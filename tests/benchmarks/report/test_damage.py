"""Every truncation and every flipped byte of a record is refused by name, or renders."""

import json
import os

import pytest

from benchmarks.report import compiled, history, publish, read, records, write
from benchmarks.report.markdown import render

NIGHTLY = os.environ.get("ZO_TRITON_NIGHTLY") == "1"
MASKS = (0x01, 0x20, 0x80, 0xFF) if NIGHTLY else (0x01,)
OTHERS = (None, "text", [], {}, -1, 1e308, 10**400) if NIGHTLY else (None, "text", {})


def damaged(content):
    """Every truncation, and every byte with some of its bits flipped."""
    yield from (content[:kept] for kept in range(len(content)))
    for place in range(len(content)):
        for mask in MASKS:
            yield content[:place] + bytes([content[place] ^ mask]) + content[place + 1 :]


def small(record):
    """A section with nested figures, and one with a table."""
    record["environment"]["versions"] = {"torch": "2.13"}
    record["sections"] = {name: record["sections"][name] for name in ("gate", "accuracy", "step_split")}
    return record


def test_a_damaged_record_is_refused_by_name_or_renders(record, tmp_path):
    file = tmp_path / "results.json"
    refused = rendered = 0
    for content in damaged(json.dumps(small(record)).encode()):
        file.write_bytes(content)
        try:
            found = read(file)
        except ValueError as error:
            assert str(file) in str(error)  # noqa: PT017
            refused += 1
        else:
            assert render(found, []).encode()
            rendered += 1
    assert refused > rendered > 0


@pytest.mark.parametrize("section", ["race", "step_time", "memory", "benchmarks"])
def test_any_missing_key_or_changed_kind_is_refused_by_name_or_renders(record, tmp_path, section):
    """Structure beyond the reach of one byte: each value in turn left out, and replaced by another kind."""
    file = tmp_path / "results.json"
    record["sections"] = {section: record["sections"][section]}
    for method in record["sections"][section].get("methods", [])[1:]:
        method["runs"], method["trials"] = method["runs"][:1], []

    def places(value):
        keys = value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
        for key in keys:
            yield value, key
            yield from places(value[key])

    refused = 0
    for holder, key in list(places(record["sections"][section])):
        before = holder[key]
        for other in OTHERS:
            holder[key] = other
            file.write_text(json.dumps(record))
            try:
                render(read(file), [])
            except ValueError as error:
                assert str(file) in str(error)  # noqa: PT017
                refused += 1
        holder[key] = before
    assert refused > 10


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        "9" * 5000,
        '{"a": NaN}',
        '{"a": -Infinity}',
        '{"a": 1e999}',
        '"\\ud800"',
        "\x00",
        "\ufeff{}",
    ],
    ids=["deep", "long", "nan", "infinite", "overflow", "surrogate", "zero", "mark"],
)
def test_json_that_breaks_readers_is_refused_by_name(tmp_path, text):
    file = tmp_path / "results.json"
    file.write_text(text, encoding="utf-8")
    for reader in (read, compiled.read):
        with pytest.raises(ValueError, match=r"results\.json is not "):
            reader(file)


@pytest.mark.parametrize("section", ["step_split", "accuracy"])
def test_a_record_that_can_not_be_drawn_leaves_the_old_report(short_record, tmp_path, section):
    publish(short_record, tmp_path / "out")
    before = (tmp_path / "out" / "results.json").read_bytes()
    key = "cases" if section == "step_split" else "rows"
    short_record["sections"][section][key] = [{"name": "no figures"}]
    with pytest.raises(ValueError, match=r"the record to be published can't be shown \(KeyError: '.*run"):
        publish(short_record, tmp_path / "out")
    assert (tmp_path / "out" / "results.json").read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]


def test_a_damaged_history_is_refused_by_name_or_goes_on(record, tmp_path):
    publish(record, tmp_path)
    file, refused = tmp_path / history.NAME, 0
    for content in damaged(json.dumps(json.loads(file.read_text())).encode()):
        file.write_bytes(content)
        try:
            history.dumps(history.extended(record, tmp_path)).encode()
        except ValueError as error:
            assert str(file) in str(error)  # noqa: PT017
            refused += 1
    assert refused > 100


def test_a_newer_or_foreign_record_is_refused_before_anything_in_it_is_read(record, tmp_path):
    file = tmp_path / "results.json"
    write(file, record)
    text = json.loads(file.read_text())
    for change, message in (
        ({"schema": records.SCHEMA + 1, "sections": None}, "newer than 1; upgrade zo_triton"),
        ({"format": "another report", "sections": None}, "is not a zo_triton report"),
    ):
        file.write_text(json.dumps({**text, **change}))
        with pytest.raises(ValueError, match=rf"results\.json.* {message}"):
            read(file)
