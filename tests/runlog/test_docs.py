"""The page on replay stays true: its commands exist, its figures are the program's."""

from pathlib import Path

from documents import check_commands

from zo_triton.runlog.format import MAGIC, OVERHEAD

FILE = Path(__file__).resolve().parents[2] / "docs" / "replay.md"
PAGE = FILE.read_text(encoding="utf-8")


def test_the_commands_are_the_command_lines():
    assert len(check_commands(FILE)) == 6


def test_the_format_is_the_file_s():
    assert MAGIC.hex(" ").upper() in PAGE
    assert f"4·K + {OVERHEAD} bytes" in PAGE
    assert f"{4 * 128 + OVERHEAD} at K = 128" in PAGE
