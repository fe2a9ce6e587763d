"""The goals, set before anything was measured, beside what this device reached."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks.gpu.kernel_times import ACCUMULATE, NODE_LINEAR
from benchmarks.gpu.results import FAILED, PASSED
from benchmarks.gpu.step_times import MEZO, RECORDED
from benchmarks.report.statistics import find, median_reached
from benchmarks.timing import round_digits

MET, MISSED, MEANINGLESS = "met", "missed", "means nothing"
NOT_MEASURED, NOT_COUNTED = "not measured", "not counted"
WRONG, UNCHECKED = "failed a check", "is unchecked"
LAST_TARGET = 0.97

Sections = dict[str, Any]


@dataclass(frozen=True)
class Goal:
    """One figure that was wished for.

    Attributes:
        name: Key in records.
        label: What is measured, and in what.
        goal: The figure.
        at_least: Whether more is better; otherwise less is.
        needs: Operations whose checks must have passed for the figure to count.
        measured: From the sections to the figure, None where it is not there.
    """

    name: str
    label: str
    goal: float
    at_least: bool
    needs: tuple[str, ...]
    measured: Callable[[Sections], float | None]


def trusted(sections: Sections) -> dict[str, str]:
    """From each operation that was checked to ``passed``, or what keeps its figures from counting."""
    found: dict[str, set[str]] = {}
    for row in sections.get("gpu_checks", {}).get("rows", ()):
        found.setdefault(row["op"], set()).add(row["status"])
    return {
        op: WRONG if FAILED in statuses else PASSED if PASSED in statuses else UNCHECKED
        for op, statuses in found.items()
    }


def relate(sections: Sections) -> None:
    """Writes beside each kernel's rates the share of its ceiling, and whether its operation passed its checks."""
    trust = trusted(sections)
    ceilings = {row["name"]: row["value"] for row in sections.get("gpu_ceilings", {}).get("rows", ())}
    for row in sections.get("gpu_kernels", {}).get("rows", ()):
        if row["ms"] is None:
            continue
        rate = row["tflops"] if row["tflops"] is not None else row["gbytes"]
        ceiling = ceilings.get(row["ceiling"])
        row["trust"] = trust.get(row["op"], UNCHECKED)
        row["share"] = None if not ceiling or rate is None else round_digits(rate / ceiling, 3)


def judge(sections: Sections, tiny: bool) -> dict[str, Any]:
    """The section ``gpu_goals``."""
    trust, rows = trusted(sections), []
    for goal in GOALS:
        value = goal.measured(sections)
        doubtful = [op for op in goal.needs if trust.get(op) != PASSED]
        if value is None:
            verdict = NOT_MEASURED
        elif tiny:
            verdict = MEANINGLESS
        elif doubtful:
            verdict = f"{NOT_COUNTED}: {doubtful[0]} " + trust.get(doubtful[0], UNCHECKED)
        else:
            verdict = MET if (value >= goal.goal if goal.at_least else value <= goal.goal) else MISSED
        rows.append(
            {
                "name": goal.name,
                "label": goal.label,
                "at_least": goal.at_least,
                "goal": goal.goal,
                "measured": None if value is None else round_digits(value, 3),
                "verdict": verdict,
            }
        )
    note = "Set before anything was measured. A figure counts only if every operation behind it passed its checks."
    return {"note": note, "rows": rows}


def line(row: dict[str, Any]) -> str:
    """A goal in one line."""
    bound = "at least" if row["at_least"] else "at most"
    reached = "" if row["measured"] is None else f", measured {row['measured']:g}"
    return f"{row['label']}: goal {bound} {row['goal']:g}{reached}: {row['verdict']}"


def _layer(name: str) -> Callable[[Sections], float | None]:
    def measured(sections: Sections) -> float | None:
        row = find(sections.get("gpu_layers", {}).get("rows", []), name)
        return row["share"] if row else None

    return measured


def _kernel(op: str, case: str) -> Callable[[Sections], float | None]:
    def measured(sections: Sections) -> float | None:
        for row in sections.get("gpu_kernels", {}).get("rows", ()):
            if (row["op"], row["case"]) == (op, case):
                return row.get("share")
        return None

    return measured


def _against_mezo(sections: Sections) -> float | None:
    """On the first of the step times' networks: 784-256-256-10."""
    cases = sections.get("step_time", {}).get("cases", ())
    if not cases:
        return None
    ours, theirs = (find(cases[0]["contenders"], name) for name in (RECORDED, MEZO))
    return theirs["median_ms"] / ours["median_ms"] if ours and theirs else None


def _against_backprop(sections: Sections) -> float | None:
    """Our seconds over theirs; infinite times are no figure."""
    rows = sections.get("race_mnist", {}).get("methods", [])
    theirs = find(rows, "adam")
    if not theirs or not theirs["runs"] or f"{LAST_TARGET:g}" not in theirs["runs"][0]["reached"]:
        return None
    limit = median_reached(theirs["runs"], LAST_TARGET, "seconds")
    ours = [median_reached(row["runs"], LAST_TARGET, "seconds") for row in rows if row["family"] == "fused"]
    taken = [seconds for seconds in ours if seconds is not None]
    return min(taken) / limit if taken and limit else None


GOALS = (
    Goal(
        "middle-one-sided", "evaluations over inference passes, middle layer, one-sided", 0.36, True,
        ("perturbed_linear",), _layer("middle layer, one-sided"),
    ),
    Goal(
        "first-one-sided", "evaluations over inference passes, first layer, one-sided", 0.66, True,
        ("perturbed_linear",), _layer("first layer, one-sided"),
    ),
    Goal(
        "middle-central", "central pairs over inference passes, middle layer", 0.19, True,
        ("perturbed_linear",), _layer("middle layer, central pairs"),
    ),
    Goal(
        "accumulate", "accumulate at K = 8 over the copy's bandwidth", 0.6, True, ("accumulate",),
        _kernel("accumulate", ACCUMULATE),
    ),
    Goal(
        "node-linear", "a layer with perturbed outputs over the plain product's rate, bfloat16", 0.8, True,
        ("node_linear",), _kernel("node_linear", NODE_LINEAR),
    ),
    Goal(
        "step-mezo", "MeZO loop's step over ours (CUDA graph), 784-256-256-10", 20.0, True,
        ("perturbed_linear", "accumulate", "CapturedStep"), _against_mezo,
    ),
    Goal(
        "race-mnist", "seconds to 97 % on MNIST over eager backprop + Adam's", 1.0, False,
        ("perturbed_linear", "mlp_differences", "accumulate"), _against_backprop,
    ),
)  # fmt: skip
"""In the order of the report.

The layers' are what the static model of :mod:`zo_triton.compilation.roofline` admits on sm_90, over the products
that an evaluation or a pair takes (two and four in a middle layer, one in the first), against a plain pass at the
peak.
"""
