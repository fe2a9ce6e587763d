"""One small sample of every section."""

import copy

import pytest


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
def nzk_section():
    """An experiment of one case, and a real network."""
    return {
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


CURVES = {
    "note": "Costs.",
    "throughput": {
        "network": "64-32-10",
        "directions": 32,
        "rows": [
            {"batch": 1, "one_sided": 0.7, "central": 0.8, "evaluations_per_s": 9e4},
            {"batch": 2, "one_sided": 1.1, "central": 1.2, "evaluations_per_s": 8e4},
        ],
    },
    "growth": [
        {
            "axis": "K", "fixed": "batch 128", "values": [8, 32],
            "contenders": [
                {"label": "fused", "family": "fused", "ms": [1.0, 3.0], "exponent": 0.8},
                {"label": "MeZO loop", "family": "zeroth", "ms": [4.0, 16.0], "exponent": 1.0},
            ],
        }
    ],
}  # fmt: skip

GPU = {
    "gpu_goals": {
        "note": "Goals.",
        "rows": [
            {"label": "a kernel", "goal": 0.5, "at_least": True, "measured": 0.6, "verdict": "met"},
            {"label": "a step, ms", "goal": 1.0, "at_least": False, "measured": 2.0, "verdict": "missed"},
            {"label": "a race, s", "goal": 1.0, "at_least": False, "measured": None, "verdict": "not measured"},
        ],
    },
    "gpu_layers": {
        "note": "Layers.",
        "pass_us": None,
        "rows": [{"name": "linear", "per_second": 1e5, "share": 0.9, "limit": 1.2}],
    },
    "gpu_kernels": {
        "note": "Kernels.",
        "rows": [
            {"op": "gram", "case": "K = 8", "ms": None},
            {
                "op": "sample", "case": "signs", "ms": 0.1, "tflops": None, "gvalues": 3.0, "gbytes": 12.0,
                "share": 0.5, "ceiling": "memory", "trust": "passed",
            },
        ],
    },
    "gpu_ceilings": {"note": "Ceilings.", "rows": [{"name": "copy", "value": 3000.0, "unit": "GB/s"}]},
    "gpu_checks": {
        "note": "Checks.",
        "seed": 0,
        "rows": [
            {"op": "gram", "case": "signs", "error": 0.0, "allowed": 1e-6, "status": "passed"},
            {"op": "linear", "case": "bf16", "error": None, "allowed": None, "status": "failed"},
        ],
    },
    "gpu_stages": {
        "note": "Stages.",
        "rows": [{"name": "checks", "status": "passed", "seconds": 1.5, "budget": 90.0}],
        "incidents": [{"stage": "steps", "what": "graphs", "status": "left out", "message": "needs a `GPU`."}],
    },
}  # fmt: skip


@pytest.fixture
def samples(record, nzk_section):
    """From a section's name to data of it."""
    return {**record["sections"], "curves": copy.deepcopy(CURVES), **copy.deepcopy(GPU), "nzk": nzk_section}
