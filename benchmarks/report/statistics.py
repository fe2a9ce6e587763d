"""The few statistics that tables and figures share, so that they can't disagree."""

from __future__ import annotations

from math import inf, isfinite
from statistics import median
from typing import Any

OURS = "fused"
"""The family of this project's own methods."""


def median_reached(runs: list[dict[str, Any]], target: float, unit: str) -> float | None:
    """Median over runs of what reaching a target took; None if the median run did not reach it.

    A run that never reached the target counts as infinite, so that failures can't improve a median.

    Args:
        runs: Each has ``reached``, from the target's text to ``{"seconds", "cpu_seconds", "steps", "evaluations"}``
            or None.
        target: A test accuracy in (0, 1].
        unit: Which of the four.
    """
    if not runs:
        return None
    taken = [run["reached"][f"{target:g}"] for run in runs]
    value = median([inf if one is None else float(one[unit]) for one in taken])
    return None if value == inf else value


def units(methods: list[dict[str, Any]]) -> tuple[str, ...]:
    """What races' tables tell of the way to a target: wall-clock, CPU time and evaluations.

    Records from before CPU time was kept have none.
    """
    reached = [
        taken for method in methods for run in method["runs"] for taken in run["reached"].values() if taken
    ]
    kept = reached and all("cpu_seconds" in taken for taken in reached)
    return ("seconds", "cpu_seconds", "evaluations") if kept else ("seconds", "evaluations")


UNITS = {"seconds": "seconds", "cpu_seconds": "CPU s", "evaluations": "evaluations"}
"""How tables' heads name them."""


def quartiles_reached(
    runs: list[dict[str, Any]], target: float, unit: str
) -> tuple[float | None, float | None]:
    """First and third quartile over runs, by interpolation; None stands for a run that never got there."""
    if not runs:
        return None, None
    taken = [run["reached"][f"{target:g}"] for run in runs]
    values = [inf if one is None else float(one[unit]) for one in taken]
    low, high = quartiles(values)
    return low if isfinite(low) else None, high if isfinite(high) else None


def quartiles(values: list[float]) -> tuple[float, float]:
    """First and third quartile, by interpolation."""
    ordered = sorted(values)
    return _quantile(ordered, 0.25), _quantile(ordered, 0.75)


def _quantile(values: list[float], share: float) -> float:
    """Interpolated between neighbours; an infinite one counts only where it has any weight."""
    below = int(share * (len(values) - 1))
    weight = share * (len(values) - 1) - below
    if weight == 0:
        return values[below]
    return (1 - weight) * values[below] + weight * values[below + 1]


def soonest(methods: list[dict[str, Any]], target: float) -> list[dict[str, Any]]:
    """The methods by their median seconds to a target; those that did not get there last, in their old order."""

    def seconds(method: dict[str, Any]) -> float:
        taken = median_reached(method["runs"], target, "seconds")
        return inf if taken is None else taken

    return sorted(methods, key=seconds)


def median_run(method: dict[str, Any], target: float | None = None) -> dict[str, Any]:
    """The run in the middle by time to the target; by default the hardest target."""
    runs = method["runs"]
    key = f"{target:g}" if target is not None else max(runs[0]["reached"], key=float)

    def order(run: dict[str, Any]) -> tuple[float, float]:
        taken = run["reached"][key]
        return (inf if taken is None else taken["seconds"], -run["curve"][-1][4])

    return sorted(runs, key=order)[len(runs) // 2]


def find(rows: list[dict[str, Any]], name: str) -> dict[str, Any] | None:
    """The first row of that name."""
    return next((row for row in rows if row["name"] == name), None)
