"""Reports of the kernel experiments, rendered from a small synthetic record."""

import copy

import pytest

from benchmarks.report import new_record, nzk_figures, nzk_tables, publish, read
from benchmarks.report.nzk_markdown import render, summarise
from benchmarks.report.records import dumps

ENVIRONMENT = {
    "commit": "0123456789abcdef",
    "dirty": False,
    "versions": {"python": "3.11"},
    "device": "a processor",
    "threads": 1,
    "seed": 0,
    "date": "2026-01-01T00:00:00+00:00",
}


def rate(final):
    return {"lr": 0.001, "half": 3, "tenth": None, "final": final}


def ensemble(method, mean, path, ratio):
    return {
        "method": method, "runs": 32, "mean": path, "low": [1.0, 0.4, 0.1], "high": [1.0, 0.9, None],
        "predicted_mean": mean, "predicted_path": path, "ratio": ratio, "ratio_error": 0.02,
    }  # fmt: skip


def factor_row(coupling, predicted):
    return {
        "kernel": "nzk", "coupling": coupling, "directions": 1, "predicted": predicted,
        "measured": 1.01 * predicted, "standard_error": 0.01 * predicted, "z": 1.0, "draws": 100,
    }  # fmt: skip


def picture(coupling, factor):
    return {
        "coupling": coupling, "factor": factor, "block": 2, "order": "example, in order of its target",
        "expected": [[factor, 0.5], [0.5, factor]], "empirical": [[factor, 0.6], [0.4, factor]],
        "relative_difference": 0.1, "relative_error": 0.09,
    }  # fmt: skip


LABELS = {"first": "first order", "independent": "independent", "shared": "shared", "update": "ordinary"}

CASE = {
    "name": "d = 2",
    "note": "Two points.",
    "distribution": "normal(1)",
    "samples": 4,
    "size": 2,
    "rank": 2,
    "floor": 0.0,
    "largest": 0.5,
    "trace": 0.6,
    "stability": [],
    "factors": [factor_row("shared", 4.0), factor_row("independent", 1.0)],
    "acceleration": {
        "draws": 100, "shared": 4.02, "shared_error": 0.01, "shared_predicted": 4.0, "independent": 1.0,
        "independent_error": 0.01, "independent_predicted": 1.0, "ratio": 4.02, "ratio_error": 0.04,
        "ratio_predicted": 4.0,
    },
    "kernels": [picture("shared", 4.0), picture("independent", 1.0)],
    "steps": [0, 1, 10],
    "curves": {
        "first": [1.0, 0.9, 0.5], "independent": [1.0, 0.9, 0.6], "shared": [1.0, 0.8, None],
        "fused": [1.0, 0.8, None],
    },
    "ensembles": [
        ensemble("independent", [1.0, 0.9, 0.55], [1.0, 0.9, 0.5], 1.0),
        ensemble("shared", [1.0, 3e300, None], [1.0, 0.7, 0.1], 4.0),
    ],
    "agreement": {"worst": 2e-7, "step": 10, "compared": 3},
    "snapshots": {
        "label": "example", "across": [0.0, 1.0], "targets": [1.0, 2.0], "steps": [0, 10],
        "functions": {name: [[0.0, 0.0], [0.9, None]] for name in ("first", "independent", "shared")},
    },
    "rates": [
        {"method": name, "label": label, "factor": 1.0, "limit": 0.1, "equal": rate(None), "best": rate(0.2)}
        for name, label in LABELS.items()
    ],
}  # fmt: skip


def network_run(aggregator, left_at):
    return {
        "aggregator": aggregator, "directions": 100, "factor": 1.0, "steps": [0, 1, 10],
        "losses": [1.0, 0.9, 0.4], "predicted": [1.0, 0.9, 0.5], "low": [1.0, 0.8, 0.4],
        "high": [1.0, 0.95, None], "deviation": [0.0, 0.0, -0.2], "threshold": 0.05, "left_at": left_at,
        "left_deviation": None if left_at is None else -0.06, "worst": -0.2, "worst_step": 10, "final": -0.2,
        "final_step": 10, "finished": left_at is None, "linear_runs": 32, "linear_left_share": 0.25,
        "linear_left_at": None,
    }  # fmt: skip


@pytest.fixture
def nzk_record():
    section = {
        "name": "linear",
        "title": "Linear model",
        "settings": {"lr": 0.001, "steps": 10, "directions": 1},
        "engine": "cpu",
        "notes": ["the data set is another."],
        "cases": [copy.deepcopy(CASE)],
        "network": {
            "directions": 100, "eps": 0.001, "runs": [network_run("average", None), network_run("best", 7)]
        },
    }  # fmt: skip
    return new_record(copy.deepcopy(ENVIRONMENT), {"nzk": section})


def test_publishing_twice_gives_the_same_bytes(nzk_record, tmp_path):
    publish(nzk_record, tmp_path / "first")
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


def test_every_figure_is_shown(nzk_record, tmp_path):
    text = publish(nzk_record, tmp_path / "out").read_text()
    for entry in (tmp_path / "out").glob("*.svg"):
        assert f"]({entry.name})" in text


def test_the_text_says_what_was_found(nzk_record):
    text = render(nzk_record, [])
    assert "> **Note:** the data set is another." in text
    assert "4.02 times as fast as independent ones (predicted 4, off by 0.50 %)" in text
    assert "|f_fused − f| is at most 2.0e-07" in text
    assert "stays within 5 % of the prediction for all 10 steps" in text
    assert "leaves the prediction by more than 5 % at step 7 (-6.0 %)" in text
    assert "The run diverged before its 10 steps were done." in text
    assert "grows without bound" in text
    assert "diverged" in nzk_tables.losses(nzk_record["sections"]["nzk"]["cases"][0])


def test_without_a_network_there_is_no_such_figure(nzk_record, tmp_path):
    nzk_record["sections"]["nzk"]["network"] = None
    assert nzk_figures.draw_all(nzk_record, tmp_path) == ["losses.svg", "kernels.svg", "snapshots.svg"]
    assert "real network" not in render(nzk_record, []).lower()


def test_a_distribution_outside_the_field_is_said_to_be(nzk_record):
    case = nzk_record["sections"]["nzk"]["cases"][0]
    case["agreement"], case["distribution"] = None, "t(10)"
    del case["curves"]["fused"]
    assert "the field has no t(10) directions" in " ".join(summarise(nzk_record["sections"]["nzk"]))
    assert "fused" not in nzk_tables.losses(case)


@pytest.mark.parametrize("count", [2, 5])
def test_several_cases_share_the_figures(nzk_record, tmp_path, count):
    section = nzk_record["sections"]["nzk"]
    section["cases"] = [copy.deepcopy(CASE) for _ in range(count)]
    section["network"] = None
    assert len(nzk_figures.draw_all(nzk_record, tmp_path)) == 3


def test_the_columns_of_the_tables(nzk_record):
    case = nzk_record["sections"]["nzk"]["cases"][0]
    assert "| NZK | shared | 1 | 4 | 4.04 ± 0.04 | +1.00 |" in " ".join(nzk_tables.factors(case).split())
    assert "| +0.50 % |" in " ".join(nzk_tables.acceleration([case]).split())
    assert "not reached" in nzk_tables.rates(case, 0.001)


def test_a_list_of_numbers_takes_one_line(nzk_record):
    text = dumps(nzk_record)
    assert "[ 1.0, 3e+300, null ]" in text
    assert text.count("\n") < 700
