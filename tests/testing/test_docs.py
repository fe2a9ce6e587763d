"""The page on testing stays true: its code runs, and it names every property."""

import re
from pathlib import Path

import pytest

from zo_triton import testing
from zo_triton.experiments.field_quality.batteries import TESTS

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "testing.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


def test_the_pattern_finds_the_blocks():
    assert len(BLOCKS) == PAGE.count("```python") >= 2


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_each_block_runs_alone(block):
    exec(compile(block, "testing.md", "exec"), {"__name__": "page"})


def test_every_property_is_in_the_table():
    named = set(re.findall(r"`([a-z_]+)`", PAGE))
    assert {check.__name__ for check in testing.PROPERTIES} <= named


def test_every_battery_is_named():
    assert [name for name in TESTS if name not in PAGE] == []
