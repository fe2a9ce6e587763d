"""The section is complete, says what failed, and the command writes it or streams."""

import io
import re
import sys

import pytest

from benchmarks import __main__ as cli
from benchmarks.field import moments, run
from benchmarks.field.words import read_field
from benchmarks.report import read
from zo_triton.commands.shared import USER_ERROR


def quiet(text):
    pass


@pytest.fixture(scope="module")
def section():
    return run.run_field_quality(run.TINY, 0, quiet)


def test_a_tiny_run_has_everything(section):
    assert section["words"] == 2**19
    assert {law["name"] for law in section["distributions"]} == set(moments.LAWS)
    assert section["bound"] < section["smallest_p"] <= min(test["p"]["steps"] for test in section["tests"])
    assert section["planted"][0]["smallest_p"] < section["bound"]
    assert not run.has_failed(section)


def test_it_is_the_same_again(section):
    assert run.run_field_quality(run.TINY, 0, quiet) == section


@pytest.mark.parametrize("change", [
    {"smallest_p": 1e-7}, {"addresses": [{"name": "", "addresses": 9, "collisions": 1}]},
    {"planted": [{"name": "", "words": 1, "smallest_p": 0.5, "flagged_by": []}]},
], ids=["flagged", "collision", "unnoticed"])  # fmt: skip
def test_failures_are_told(section, change):
    assert run.has_failed({**section, **change})


def test_nights_are_long(monkeypatch):
    monkeypatch.delenv("ZO_TRITON_NIGHTLY", raising=False)
    assert run.choose_config(tiny=False) == run.FieldConfig()
    monkeypatch.setenv("ZO_TRITON_NIGHTLY", "1")
    assert run.choose_config(tiny=False) is run.FULL
    assert run.choose_config(tiny=True) is run.TINY
    assert len(run.FULL.readings) * run.FULL.chunks * run.FULL.words >= 10**9


def test_the_command_writes_a_report(tmp_path, capsys):
    assert cli.main(["field", "--tiny", "--out", str(tmp_path / "field")]) == 0
    parts, left = run.plan_of(run.TINY), r"\[{} of {}, \d+ s left\] {}"
    lines = capsys.readouterr().out.splitlines()
    for number, (part, line) in enumerate(zip(parts, lines, strict=False), 1):
        assert re.fullmatch(left.format(number, len(parts), part), line)
    assert lines[-1].startswith(f"wrote {tmp_path / 'field' / 'report.md'} and report.html after ")
    assert "field_quality" in read(tmp_path / "field" / "results.json")["sections"]
    assert "## Random quality" in (tmp_path / "field" / "report.md").read_text()


def test_the_command_streams_until_the_reader_goes(monkeypatch):
    class Reader(io.BytesIO):
        def write(self, data):
            if self.tell():
                raise BrokenPipeError
            return super().write(data)

    class Out:
        buffer = Reader()

    monkeypatch.setattr(sys, "stdout", Out())
    assert cli.main(["field", "--stream", "rows", "--seed", "3"]) == 0
    assert Out.buffer.getvalue() == read_field("rows", 3, 0).astype("<u4").tobytes()


def test_mistakes_are_errors_recorded_in_a_line(capsys):
    assert cli.main(["field", "--seed", "-1"]) == USER_ERROR
    assert "seed must be in [0, 2**64), got -1" in capsys.readouterr().err
    assert cli.main(["field", "--stream", "diagonals"]) == USER_ERROR
    assert "unknown reading 'diagonals'" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif("os.environ.get('ZO_TRITON_NIGHTLY') != '1'", reason="ten minutes: ZO_TRITON_NIGHTLY=1")
def test_a_billion_words():
    assert not run.has_failed(run.run_field_quality(run.FULL, 1, quiet))
