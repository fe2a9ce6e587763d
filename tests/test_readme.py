"""The README stays true: its code runs, its commands exist, its links lead somewhere."""

import pytest
import torch
from documents import ROOT, broken_links, check_commands, check_targets, python_blocks, run

README = ROOT / "README.md"
BLOCKS = python_blocks(README)


@pytest.fixture(autouse=True)
def same_weights(one_thread):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def names_after(block):
    names: dict[str, object] = {"__name__": "readme"}
    run(block, names)
    return names


def test_the_patterns_find_what_is_there():
    text = README.read_text(encoding="utf-8")
    assert len(BLOCKS) == text.count("```python") >= 4
    assert (
        len(check_commands(README))
        == text.count("\n    zo-triton ") + text.count("\n    python -m benchmarks ")
        >= 5
    )


# The first lines of each are imports, so the last say more.
@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.code.strip().splitlines()[-1].strip()[:32])
def test_each_block_runs_alone(block):
    names = names_after(block)
    if "loss" in names:
        assert isinstance(names["loss"], float)


def test_the_first_example_trains():
    names = names_after(BLOCKS[0])
    with torch.no_grad():
        untrained = torch.nn.functional.cross_entropy(torch.zeros(128, 10), names["y"])
    assert names["loss"] < untrained


def test_make_has_the_targets_named():
    assert {"report", "test"} <= check_targets(README)


def test_links_lead_to_files():
    # The figure is rendered by `make report`; its folder may be missing before the first one.
    assert [link for link in broken_links(README) if not link.startswith("reports/")] == []
