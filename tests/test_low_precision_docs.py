"""The page on low precision and faults stays true: its code runs."""

import re
from pathlib import Path

import pytest

PAGE = (Path(__file__).resolve().parents[1] / "docs/low-precision-and-faults.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("number", range(3))
def test_each_block_runs_alone(number, one_thread):
    assert len(BLOCKS) == PAGE.count("```python") == 3
    exec(compile(BLOCKS[number], "low-precision-and-faults.md", "exec"), {"__name__": "page"})
