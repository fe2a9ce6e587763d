"""Reports of the kernel experiments, rendered from a small synthetic record."""

import copy

import pytest

from benchmarks.report import figures, new_record, publish, read
from benchmarks.report.markdown import render
from benchmarks.report.records import dumps
from benchmarks.report.sections.nzk import findings, tables

ENVIRONMENT = {
    "commit": "0123456789abcdef",
    "dirty": False,
    "versions": {"python": "3.11"},
    "device": "a processor",
    "threads": 1,
    "seed": 0,
    "date": "2026-01-01T00:00:00+00:00",
}


@pytest.fixture
def nzk_record(nzk_section):
    return new_record(copy.deepcopy(ENVIRONMENT), {"nzk": nzk_section})


def test_publishing_twice_gives_the_same_bytes_and_shows_every_figure(nzk_record, tmp_path):
    text = publish(nzk_record, tmp_path / "first").read_text()
    for entry in (tmp_path / "first").glob("*.svg"):
        assert f"]({entry.name})" in text
    publish(read(tmp_path / "first" / "results.json"), tmp_path / "second")
    contents = [
        {entry.name: entry.read_bytes() for entry in (tmp_path / name).iterdir()}
        for name in ("first", "second")
    ]
    assert contents[0] == contents[1]
    assert set(contents[0]) == {
        "report.html", "report.md", "results.json", "losses.svg", "kernels.svg", "snapshots.svg", "network.svg",
    }  # fmt: skip
    assert sum(len(content) for content in contents[0].values()) < 600_000


def test_the_text_says_what_was_found(nzk_record):
    text = render(nzk_record, [])
    assert "> **Note:** the data set is another." in text
    assert "4.02 times as fast as independent ones (predicted 4, off by 0.50 %)" in text
    assert "|f_fused − f| is at most 2.0e-07" in text
    assert "stays within 5 % of the prediction for all 10 steps" in text
    assert "leaves the prediction by more than 5 % at step 7 (-6.0 %)" in text
    assert "The run diverged before its 10 steps were done." in text
    assert "grows without bound" in text
    assert "diverged" in tables.losses(nzk_record["sections"]["nzk"]["cases"][0])


def test_without_a_network_there_is_no_such_figure(nzk_record, tmp_path):
    nzk_record["sections"]["nzk"]["network"] = None
    assert figures.draw_all(nzk_record, tmp_path) == ["losses.svg", "kernels.svg", "snapshots.svg"]
    assert "real network" not in render(nzk_record, []).lower()


def test_a_distribution_outside_the_field_is_said_to_be(nzk_record):
    case = nzk_record["sections"]["nzk"]["cases"][0]
    case["agreement"], case["distribution"] = None, "t(10)"
    del case["curves"]["fused"]
    assert "the field has no t(10) directions" in " ".join(findings(nzk_record["sections"]["nzk"]).sentences)
    assert "fused" not in tables.losses(case)


@pytest.mark.parametrize("count", [2, 5])
def test_several_cases_share_the_figures(nzk_record, tmp_path, count):
    section = nzk_record["sections"]["nzk"]
    section["cases"] = [copy.deepcopy(section["cases"][0]) for _ in range(count)]
    section["network"] = None
    assert len(figures.draw_all(nzk_record, tmp_path)) == 3


def test_the_columns_of_the_tables(nzk_record):
    case = nzk_record["sections"]["nzk"]["cases"][0]
    assert "| NZK | shared | 1 | 4 | 4.04 ± 0.04 | +1.00 |" in " ".join(tables.factors(case).split())
    assert "| +0.50 % |" in " ".join(tables.acceleration([case]).split())
    assert "not reached" in tables.rates(case, 0.001)


def test_a_list_of_numbers_takes_one_line(nzk_record):
    text = dumps(nzk_record)
    assert "[ 1.0, 3e+300, null ]" in text
    assert text.count("\n") < 700
