"""The README stays true: its code runs, its commands exist, its links lead somewhere."""

import re

import pytest
import torch
from documents import ROOT, broken_links, check_targets, committed, python_blocks, run

README = ROOT / "README.md"
BLOCKS = python_blocks(README)


@pytest.fixture(autouse=True)
def same_weights(one_thread):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


OUTPUT = re.search(r"```text\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)[1]


def test_the_example_prints_what_is_shown_and_its_loss_falls(capsys):
    (block,) = BLOCKS
    run(block, {"__name__": "readme"})
    printed, shown = (
        re.findall(r"step (\d+): loss ([\d.]+)", text) for text in (capsys.readouterr().out, OUTPUT)
    )
    assert [step for step, _ in printed] == [step for step, _ in shown] == ["0", "50", "100", "150", "200"]
    losses = [float(loss) for _, loss in printed]
    assert losses == sorted(losses, reverse=True)
    # Sums in another order end a little elsewhere; the start is the same everywhere.
    assert losses == pytest.approx([float(loss) for _, loss in shown], abs=0.05)
    assert printed[0] == shown[0]


def test_the_front_page_of_the_documentation_has_the_same_example():
    index = ROOT / "docs" / "index.md"
    assert BLOCKS[0].code == python_blocks(index)[0].code
    assert f"```text\n{OUTPUT}```" in index.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("report", "figures"),
    [
        ("latest", ("0.023", "0.0132", "0.00734", "0.969", "7.94", "2.18", "273", "54.3", "2.16")),
        ("full", ("0.0667", "2006", "1291", "4224", "2352")),
        ("mnist-mlp", ("0.231", "0.192", "0.148")),
        ("mnist-cnn", ("16.4", "0.761", "0.699")),
    ],
)
def test_the_figures_are_those_of_the_committed_reports(report, figures):
    readme = README.read_text(encoding="utf-8")
    cells = re.findall(r"\| *([\d.]+) ", committed(f"reports/{report}/report.md"))
    for figure in figures:
        assert re.search(rf"(?<![\d.]){re.escape(figure)} m?s\b", readme), figure
        assert figure in cells, f"{figure} is not in reports/{report}: take README's figures from it"


def test_the_accelerations_are_those_of_the_committed_reports():
    readme = README.read_text(encoding="utf-8")
    for name, figure in {"mnist": "713.3", "cifar": "713.9", "tiny-imagenet": "711.7"}.items():
        assert re.search(rf"{figure} on\s\[[\w -]+\]\(reports/nzk/{name}/report.md\)", readme)
        assert f"walks the mean path {figure} times as fast" in committed(f"reports/nzk/{name}/report.md")


def test_make_has_the_targets_named():
    assert {"report", "test"} <= check_targets(README)


def test_links_lead_to_files():
    # The figure is rendered by `make report`; its folder may be missing before the first one.
    assert [link for link in broken_links(README) if not link.startswith("reports/")] == []
