import copy

import pytest

from benchmarks.report import figures, new_record, publish

ENVIRONMENT = {
    "commit": "0123456789abcdef",
    "dirty": False,
    "versions": {"python": "3.11", "torch": "2.13"},
    "device": "a processor",
    "threads": 2,
    "seed": 0,
    "date": "2026-01-01T00:00:00+00:00",
}


def run(seed, seconds, accuracy=0.96):
    """A run that reaches 95 % after ``seconds``, or never if that is None."""
    spent = seconds or 1.0
    early = {"seconds": spent / 2, "cpu_seconds": 0.75 * spent, "steps": 10, "evaluations": 300}
    late = {"seconds": spent, "cpu_seconds": 1.5 * spent, "steps": 20, "evaluations": 600}
    taken = None if seconds is None else late
    return {
        "seed": seed,
        "curve": [
            [0, 0.0, 0, 2.3, 0.1],
            [10, early["seconds"], 300, 0.5, 0.91],
            [20, seconds or 2.0, 600, 0.1, accuracy],
        ],
        "reached": {"0.9": early, "0.95": taken},
        "diverged": False,
        "step_ms": 1.0,
        "evaluations_per_step": 30,
    }


def method(name, label, family, seconds):
    return {
        "name": name,
        "label": label,
        "family": family,
        "dtype": "float32",
        "set_up_seconds": 0.1,
        "lr": 0.1,
        "trials": [
            {"lr": 0.01, "steps": None, "best_accuracy": 0.4, "loss": 1.5},
            {"lr": 0.1, "steps": 25, "best_accuracy": 0.96, "loss": 0.1},
        ],
        "runs": [run(seed, one) for seed, one in enumerate(seconds)],
        "step_ms": 1.0,
        "evaluations_per_step": 30,
    }


def contender(name, label, family, time):
    return {
        "name": name,
        "label": label,
        "family": family,
        "dtype": "float32",
        "evaluations": 33,
        "median_ms": time,
        "fastest_ms": 0.9 * time,
        "repeats": 9,
    }


def decoder(directions, ours, vmapped):
    """A case whose loop takes 30 ms a direction and whose plain pass takes 10 ms."""
    return {
        "name": f"GPT-2, d = 256, K = {directions}", "network": "GPT-2", "directions": directions, "parameters": 99,
        "contenders": [
            contender("zo-float32", "fused, one-sided, float32", "fused", ours) | {"evaluations": directions + 1},
            contender("mezo-1", "MeZO loop, K = 1", "zeroth", 30.0),
            contender("vmap-chunked", "vmap, one-sided, 4 at once", "zeroth", vmapped),
            contender("forward", "plain forward pass", "inference", 10.0),
        ],
    }  # fmt: skip


def peak(name, label, family, mib):
    return {
        "name": name, "label": label, "family": family, "dtype": "float32", "excess_mib": mib, "resident_mib": mib
    }  # fmt: skip


SECTIONS = {
    "gate": {
        "note": "Before anything was timed.",
        "rows": [{"kernel": "update", "directions": 8, "steps": 300, "worst": 1.4e-7, "allowed": 1e-5}],
    },
    "race": {
        "task": "digits",
        "config": {
            "sizes": [64, 32, 10], "batch": 128, "directions": 64, "seeds": [0, 1, 2], "targets": [0.9, 0.95],
            "run_seconds": 6.0,
        },
        "parameters": 2410,
        "tuning": {"learning_rates": [0.01, 0.1], "note": "A sweep."},
        "methods": [
            method("zo-adam", "fused ZO + Adam", "fused", [0.3, 0.25, 0.28]),
            method("mezo", "MeZO loop", "zeroth", [4.2, None, 3.9]),
            method("mezo-1", "MeZO loop, K = 1", "zeroth", [None, None, 5.5]),
            method("adam", "backprop + Adam", "first", [0.05, 0.07, 0.06]),
        ],
    },
    "step_time": {
        "note": "Medians.",
        "cases": [
            {
                "name": "784-256-256-10, batch 128, K = 32",
                "contenders": [
                    contender("zo", "fused, one-sided", "fused", 8.0),
                    contender("mezo", "MeZO loop", "zeroth", 120.0),
                    contender("sgd", "backprop + SGD", "first", 1.3),
                ],
            }
        ],
    },
    "transformers": {
        "note": "Decoders.",
        "missing": [],
        "cases": [decoder(1, 40.0, 25.0), decoder(4, 50.0, 80.0)],
        "memory": [
            {
                "name": "GPT-2 small", "network": "GPT-2 small", "directions": 4, "weights_mib": 475.0,
                "methods": [
                    peak("zo-float32", "fused, one-sided, float32", "fused", 900.0),
                    peak("mezo-1", "MeZO loop, K = 1", "zeroth", 180.0),
                ],
            }
        ],
    },
    "step_split": {
        "note": "Parts.",
        "cases": [
            {
                "name": "64-32-10",
                "parts": {"draw": 0.1, "base": 0.05, "differences": 0.3, "update": 0.02, "rest": 0.1},
                "step_ms": 0.57,
            }
        ],
    },
    "accuracy": {
        "model": "64-32-10",
        "batch": 128,
        "directions": 16,
        "rows": [
            {"eps": 1e-2, "errors": {"propagated float32": 1e-7, "direct float32": 1e-5}},
            {"eps": 1e-6, "errors": {"propagated float32": None, "direct float32": 0.4}},
        ],
    },
    "memory": {
        "note": "Peaks.",
        "cases": [
            {
                "name": "64-32-10",
                "chunk_mib": 2.0,
                "methods": [
                    {"name": "zo", "label": "fused", "family": "fused", "excess_mib": 2.6},
                    {"name": "mezo", "label": "MeZO loop", "family": "zeroth", "excess_mib": 0.0},
                ],
            }
        ],
    },
    "field_quality": {
        "note": "1048576 words in 1 readings.",
        "seed": 0,
        "words": 1048576,
        "bound": 1e-6,
        "smallest_p": 0.0355,
        "readings": {"steps": "one element in 64 successive steps"},
        "tests": [{"name": "bits", "looks": "each bit", "p": {"steps": 0.39}}],
        "distributions": [{"name": "rademacher", "values": 1024, "z": [-0.5, None, 0.5, None], "ks": None}],
        "addresses": [{"name": "random ones", "addresses": 2400, "collisions": 0}],
        "planted": [{"name": "equal neighbours", "words": 9, "smallest_p": 2.2e-308, "flagged_by": ["streams"]}],
    },
    "compatibility": {
        "eps": 1e-4,
        "directions": 4,
        "bounds": {"float32": 1e-3, "bfloat16": 1e-2},
        "packages": {"transformers": "5.0", "timm": "not installed"},
        "counts": {"strict": 1, "refused": 1},
        "kinds": [
            {
                "title": "Decoders",
                "missing": [],
                "rows": [
                    {"name": "gpt2", "word": "strict", "error": 2.1e-7, "why": ""},
                    {"name": "rnn", "word": "refused", "error": None, "why": "ValueError: a | b"},
                ],
            },
            {"title": "Models of timm", "missing": ["timm"], "rows": []},
        ],
    },
    "scaling": {
        "note": "Measured and simulated.",
        "directions": 4,
        "many": 8,
        "weights": 100,
        "parts": [{"batch": 16, "base_ms": 0.5, "start_ms": 1.0, "direction_ms": 0.4, "update_ms": 0.02}],
        "two_ranks": {
            "ranks": 2, "probe_bytes": [64, 1024], "alone_ms": 3.0, "step_ms": 2.0, "payload_bytes": 16.0,
            "wire_bytes": None, "latency_us": 100.0, "bytes_a_second": 1e9,
        },
        "networks": [{"name": "fast", "latency_us": 5.0, "bytes_a_second": 1e10, "rounds": "log2"}],
        "small_curves": [
            {
                "batch": 16, "network": "fast", "directions": 4, "ranks": [1, 2, 4], "step_ms": [2.7, 1.9, 1.5],
                "received_bytes": [0, 16, 36],
            }
        ],
        "curves": [
            {
                "batch": 16, "network": "fast", "directions": 8, "ranks": [1, 2, 4, 8],
                "step_ms": [4.4, 2.8, 2.0, 1.6], "received_bytes": [0, 24, 48, 84],
            }
        ],
    },
    "benchmarks": {
        "entries": [
            {
                "id": "benchmarks/ops/bench_ops.py::bench_gram", "group": "op: gram", "name": "gram",
                "median_ms": 0.5, "min_ms": 0.4, "rounds": 9, "extra": {"K": 32, "gflop": 1.25},
                "commit": "0123456789abcdef", "dirty": True, "date": "2026-01-01", "threads": 2,
            }
        ]
    },
}  # fmt: skip


def whole_record():
    return new_record(copy.deepcopy(ENVIRONMENT), copy.deepcopy(SECTIONS))


@pytest.fixture
def record():
    """A small record that has every section."""
    return whole_record()


@pytest.fixture(scope="session")
def whole_report(tmp_path_factory):
    """The folder of that record's report, for what only reads it: its figures take seconds."""
    return publish(whole_record(), tmp_path_factory.mktemp("whole") / "report").parent


@pytest.fixture
def short_record(record):
    """One quick figure: for what does not depend on the figures."""
    return shortened(record)


def shortened(record):
    record["sections"] = {name: record["sections"][name] for name in ("step_split", "accuracy")}
    return record


@pytest.fixture(scope="session")
def short_report(tmp_path_factory):
    """The folder of the short record's report, of which tests take copies."""
    return publish(shortened(whole_record()), tmp_path_factory.mktemp("short") / "report").parent


@pytest.fixture
def undrawn(monkeypatch):
    """Reports without figures: for what is said in words."""
    monkeypatch.setattr(figures, "draw_all", lambda record, folder: [])
