"""The page on testing stays true: it names every property and battery."""

import re
from pathlib import Path

from benchmarks.field.batteries import TESTS
from zo_triton import testing

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "testing.md").read_text(encoding="utf-8")


def test_every_property_is_in_the_table():
    named = set(re.findall(r"`([a-z_]+)`", PAGE))
    assert {check.__name__ for check in testing.PROPERTIES} <= named


def test_every_battery_is_named():
    assert [name for name in TESTS if name not in PAGE] == []
