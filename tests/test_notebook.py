"""The notebook runs from top to bottom, what its text claims comes true, and its page has what it shows."""

import json
import sys
from importlib import import_module
from itertools import pairwise

import matplotlib as mpl
import matplotlib.pyplot as plt
import pytest
import torch
from documents import ROOT, broken_links

NOTEBOOK = ROOT / "examples" / "first_steps.ipynb"
CELLS = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
CODE = [cell for cell in CELLS if cell["cell_type"] == "code"]


@pytest.fixture(scope="module")
def names():
    """What is left of the run of all cells in one namespace, without a display."""
    left: dict[str, object] = {"__name__": "notebook"}
    backend = mpl.get_backend()
    plt.switch_backend("agg")
    with torch.random.fork_rng(), mpl.rc_context():
        for number, cell in enumerate(CODE, 1):
            exec(compile("".join(cell["source"]), f"{NOTEBOOK.name}, cell {number}", "exec"), left)
        yield left
    plt.close("all")
    plt.switch_backend(backend)


def test_both_runs_learn_and_the_one_on_activations_faster(names):
    losses = {
        perturb: [figures["loss"] for figures in told][-20:] for perturb, (told, _) in names["runs"].items()
    }
    means = {perturb: sum(last) / 20 for perturb, last in losses.items()}
    assert means["activations"] < 0.5 * means["weights"]
    assert means["weights"] < 0.5 * names["runs"]["weights"][0][0]["loss"]
    assert all(names["accuracy"](model) > 0.8 for _, model in names["runs"].values())


def test_the_cosine_rises_with_the_directions_as_the_formula_says(names):
    counts, size, weights = names["counts"], names["size"], names["cosines"]["weights"]
    assert all(few < many for few, many in pairwise(weights))
    assert weights == pytest.approx([(k / (k + size - 1)) ** 0.5 for k in counts], abs=3 / size**0.5)
    for count, cosine in zip(counts, names["cosines"]["activations"], strict=True):
        assert (cosine > 0.999) == (count >= 64)


def test_the_runs_lie_as_foretold(names):
    forecast, losses = names["forecast"], names["losses"].numpy()
    within = (losses >= forecast.low) & (losses <= forecast.high)
    assert within[:, 1:].mean() == pytest.approx(0.9, abs=0.1)
    # Of twenty, the mean is known to a quarter of their deviation; nine of ten lie within 1.65 deviations.
    deviation = (forecast.high[-1] - forecast.low[-1]) / 3.3
    assert abs(losses[:, -1].mean() - forecast.losses[-1]) < 3 * deviation / 20**0.5


def test_a_net_of_ones_own_learns(names):
    assert names["net_losses"][-1] < 0.4 * names["net_losses"][0]
    assert names["accuracy"](names["net"]) > 0.8


def test_the_kept_outputs_are_those_of_one_run_without_paths_of_a_machine():
    assert [cell["execution_count"] for cell in CODE] == list(range(1, len(CODE) + 1))
    kept = json.dumps([cell["outputs"] for cell in CODE])
    assert kept.count("image/png") == 3
    assert "Traceback" not in kept
    assert [place for place in ("/home/", "/root/", "/tmp/", "/work/") if place in kept] == []
    assert NOTEBOOK.stat().st_size < 300_000


def test_links_lead_to_files(tmp_path):
    text = "\n\n".join("".join(cell["source"]) for cell in CELLS if cell["cell_type"] == "markdown")
    page = tmp_path / "examples" / "page.md"
    page.parent.mkdir()
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    page.write_text(text, encoding="utf-8")
    assert "](../docs/" in text
    assert broken_links(page) == []


def test_the_site_has_a_page_of_it_and_its_pictures(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "tools"))
    notebooks = import_module("notebooks")
    del sys.modules["notebooks"]  # a tool, found only while the path leads to it
    (uri, text), *pictures = notebooks.pages(NOTEBOOK, "examples/first_steps.ipynb")
    assert uri == "examples/first_steps.md"
    assert text.startswith("# First steps")
    assert "zo.nzk.predict(" in text
    assert len(pictures) == 3
    for uri, content in pictures:
        assert f"]({uri.removeprefix('examples/')})" in text
        assert content.startswith(b"\x89PNG")
