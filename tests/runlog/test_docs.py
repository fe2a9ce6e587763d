"""The page on replay stays true: its code runs, its commands exist, its figures are the program's."""

import re
import shlex
from pathlib import Path

import pytest

from zo_triton import cli
from zo_triton.runlog import OVERHEAD
from zo_triton.runlog.format import MAGIC

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "replay.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
COMMANDS = re.findall(r"^    (zo-triton .*?)$", PAGE, re.MULTILINE)


def test_the_patterns_find_what_is_there():
    assert len(BLOCKS) == PAGE.count("```python") == 3
    assert len(COMMANDS) == 6


@pytest.mark.parametrize("block", BLOCKS, ids=["zosgd", "trainer", "resume"])
def test_each_block_runs_alone(block):
    exec(compile(block, "replay.md", "exec"), {"__name__": "page"})


@pytest.mark.parametrize("command", COMMANDS)
def test_the_commands_are_the_command_lines(command):
    program, *arguments = shlex.split(command)
    assert program == "zo-triton"
    assert cli._parser().parse_args(arguments).run


def test_the_format_is_the_file_s():
    assert MAGIC.hex(" ").upper() in PAGE
    assert f"4·K + {OVERHEAD} bytes" in PAGE
    assert f"{4 * 128 + OVERHEAD} at K = 128" in PAGE
