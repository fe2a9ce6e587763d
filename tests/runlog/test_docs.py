"""The page on replay stays true: its commands exist, its figures are the program's."""

import re
import shlex
from pathlib import Path

import pytest

from zo_triton import cli
from zo_triton.runlog import OVERHEAD
from zo_triton.runlog.format import MAGIC

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "replay.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^    (zo-triton .*?)$", PAGE, re.MULTILINE)


def test_the_pattern_finds_what_is_there():
    assert len(COMMANDS) == 6


@pytest.mark.parametrize("command", COMMANDS)
def test_the_commands_are_the_command_lines(command):
    program, *arguments = shlex.split(command)
    assert program == "zo-triton"
    assert cli._parser().parse_args(arguments).run


def test_the_format_is_the_file_s():
    assert MAGIC.hex(" ").upper() in PAGE
    assert f"4·K + {OVERHEAD} bytes" in PAGE
    assert f"{4 * 128 + OVERHEAD} at K = 128" in PAGE
