"""The README stays true: its code runs, its commands exist, its links lead somewhere."""

import os
import re
import shlex
from pathlib import Path

import pytest
import torch

from zo_triton import cli

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
COMMANDS = re.findall(r"^    (zo-triton .*?)(?:\s+#.*)?$", README, re.MULTILINE)


@pytest.fixture(autouse=True)
def same_weights(one_thread):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def run(block: str) -> dict[str, object]:
    names: dict[str, object] = {"__name__": "readme"}
    exec(compile(block, "README.md", "exec"), names)
    return names


def test_the_patterns_find_what_is_there():
    assert len(BLOCKS) == README.count("```python") >= 4
    assert len(COMMANDS) == README.count("\n    zo-triton ") >= 5


# The first lines of each are imports, so the last say more.
@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.strip().splitlines()[-1].strip()[:32])
def test_each_block_runs_alone(block):
    names = run(block)
    if "loss" in names:
        assert isinstance(names["loss"], float)


def test_the_first_example_trains():
    names = run(BLOCKS[0])
    with torch.no_grad():
        untrained = torch.nn.functional.cross_entropy(torch.zeros(128, 10), names["y"])
    assert names["loss"] < untrained


@pytest.mark.parametrize("command", COMMANDS)
def test_the_commands_are_the_command_lines(command):
    program, *arguments = shlex.split(command)
    assert program == "zo-triton"
    assert cli._parser().parse_args(arguments).run


def test_make_has_the_targets_named():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = set(re.findall(r"(?:`|^    )make ([a-z]+)", README, re.MULTILINE))
    assert {"report", "test"} <= named <= targets


def test_links_lead_to_files():
    # The figure is rendered by `make report`; its folder may be missing before the first one.
    links = [
        link for link in re.findall(r"\]\((?!https?:)([^)#]+)\)", README) if not link.startswith("reports/")
    ]
    assert links
    assert [link for link in links if not os.path.exists(ROOT / link)] == []
