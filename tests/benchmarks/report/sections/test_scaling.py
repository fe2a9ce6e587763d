import copy

import pytest

from benchmarks.report.markdown import render
from benchmarks.report.sections import scaling
from zo_triton._figures import save_figure


def test_report_says_what_is_measured_and_what_simulated(record):
    text = render(record, ["scaling.svg"])
    part = text[text.index("## Many ranks") : text.index("## Where the numbers come from")]
    above, below = part.split("### Simulated")
    assert "### Measured" in above
    assert "| 2       | 2           | 1.5        | 16                   | not measured" in above
    assert "K = 8; every number is the model's." in below
    assert (
        "![Milliseconds of a step against the number of ranks: two measured, the rest simulated](scaling.svg)"
        in below
    )


@pytest.mark.parametrize("measured", [True, False])
def test_figure_with_and_without_ranks(record, tmp_path, measured):
    section = copy.deepcopy(record["sections"]["scaling"])
    if not measured:
        section["two_ranks"] = None
    assert save_figure(scaling.draw, section, tmp_path, "scaling") == "scaling.svg"
    assert (tmp_path / "scaling.svg").stat().st_size > 5000
