"""The report's first screen: what won, by how much, and where it lost, worked out from the record."""

from __future__ import annotations

from math import inf, isfinite
from typing import Any

from benchmarks.report.gpu_markdown import summarise_checks, summarise_goals
from benchmarks.report.records import Record, races_of
from benchmarks.report.statistics import median_reached
from zo_triton._tables import number

LOOP = "MeZO loop"

Loss = tuple[str, str]
"""Who did better at what, and where, by how much."""


def summarise(record: Record) -> list[str]:
    """One sentence an experiment, and a last one that lists every lost comparison.

    Returns:
        Markdown list items without their dash.
    """
    sections = record["sections"]
    lines: list[str] = []
    losses: list[Loss] = []
    for section in races_of(record).values():
        sentence, lost = _race(section)
        lines.append(sentence)
        losses += lost
    if lines:
        lines.insert(0, _verdict(record))
    for name, describe in _DESCRIBE.items():
        if name in sections:
            sentence, lost = describe(sections[name])
            lines.append(sentence)
            losses += lost
    if lines:
        lines.append(
            "**Where fused lost:** "
            + ("; ".join(_grouped(losses)) if losses else "nowhere in these measurements")
            + "."
        )
    return lines


def _grouped(losses: list[Loss]) -> list[str]:
    """One item for everybody who did better at something, with all the places where."""
    places: dict[str, list[str]] = {}
    for who, where in losses:
        places.setdefault(who, []).append(where)
    return [f"{who}: {', '.join(where)}" for who, where in places.items()]


def _verdict(record: Record) -> str:
    """When it is worth it and when not, from the soonest of each family in each race."""
    behind, ahead = [], []
    for section in races_of(record).values():
        ours, others, backprop = (_soonest(section, family) for family in ("fused", "zeroth", "first"))
        if isfinite(ours) or isfinite(others):
            ahead.append(others / ours)
        if isfinite(ours) or isfinite(backprop):
            behind.append(ours / backprop)
    if not any(isfinite(ratio) for ratio in behind) and not any(ahead):
        return "**In short:** the fused method reached no race's target."
    text = "**In short:** where a gradient can be had, take it"
    lost, won = ([ratio for ratio in ratios if ratio > 1] for ratios in (behind, ahead))
    text += f": backpropagation was sooner in {len(lost)} of {len(behind)} races{_range(lost, 'both')}"
    text += ". Where only losses can be had, the fused method was the soonest of the forward-only ones in "
    return f"{text}{len(won)} of {len(ahead)} races{_range(won, 'another')}."


def _soonest(section: dict[str, Any], family: str) -> float:
    """Median seconds to the hardest target of a family's quickest method; infinite if none got there."""
    target = max(section["config"]["targets"])
    taken = [
        median_reached(one["runs"], target, "seconds")
        for one in section["methods"]
        if one["family"] == family
    ]
    return min((seconds for seconds in taken if seconds is not None), default=inf)


def _range(ratios: list[float], who: str) -> str:
    """By how much, in brackets; nothing where nobody else ever got there."""
    finite = [ratio for ratio in ratios if isfinite(ratio)]
    if not finite:
        return ""
    low, high = _times(min(finite)), _times(max(finite))
    return f" (by {low if low == high else f'{low} to {high}'} where {who} got there)"


def _race(section: dict[str, Any]) -> tuple[str, list[Loss]]:
    target = max(section["config"]["targets"])
    goal = f"{100 * target:.0f} % test accuracy on {section['task']}"
    taken = {one["name"]: median_reached(one["runs"], target, "seconds") for one in section["methods"]}
    ours = _fastest([one for one in section["methods"] if one["family"] == "fused"], taken)
    seconds = taken[ours["name"]]
    head = f"**{goal}**, {_seeds(len(ours['runs']))}"
    if seconds is None:
        return f"{head}: {ours['label']} did not get there.", [(f"{ours['label']} never got there", goal)]
    parts, losses = [], []
    for other in section["methods"]:
        if other["family"] == "fused":
            continue
        if "error" in other:
            parts.append(f"{other['label']} failed")
            continue
        theirs = taken[other["name"]]
        if theirs is None:
            parts.append(f"{other['label']} {number(None)} within {section['config']['run_seconds']:g} s")
        elif theirs < seconds:
            parts.append(f"{other['label']} {number(theirs, 's')} (**{_times(seconds / theirs)} faster**)")
            losses.append((f"{other['label']} was sooner", f"{section['task']} ({_times(seconds / theirs)})"))
        else:
            parts.append(f"{other['label']} {number(theirs, 's')} ({_times(theirs / seconds)} slower)")
    return f"{head}: {ours['label']} takes **{number(seconds, 's')}**; {', '.join(parts)}.", losses


def _seeds(count: int) -> str:
    return "one seed" if count == 1 else f"median of {count} seeds"


def _step_time(section: dict[str, Any]) -> tuple[str, list[Loss]]:
    parts, losses = [], []
    for case in section["cases"]:
        ours, *others = case["contenders"]
        ratios: dict[str, float] = {}
        for other in others:
            if other["family"] == "fused":
                continue
            ratio = other["median_ms"] / ours["median_ms"]
            if ratio < 1:
                losses.append(
                    (f"{other['label']} has the quicker step", f"{case['name']} ({_times(1 / ratio)})")
                )
            elif other["family"] == "zeroth":
                ratios[other["label"]] = ratio
        # The loop that everybody knows, and whoever comes closest.
        nearest = min(ratios, key=lambda label: ratios[label], default=None)
        named = dict.fromkeys(label for label in (LOOP, nearest) if label in ratios)
        listed = ", ".join(f"{_times(ratios[label])} faster than {label}" for label in named)
        listed = listed or "faster than no zeroth-order contender"
        parts.append(f"{case['name']}: {number(ours['median_ms'], 'ms')}, {listed}")
    return f"**One step**, {section['cases'][0]['contenders'][0]['label']}. {'; '.join(parts)}.", losses


def _accuracy(section: dict[str, Any]) -> tuple[str, list[Loss]]:
    losses = []
    for row in section["rows"]:
        for name, error in row["errors"].items():
            direct = row["errors"].get(name.replace("propagated", "direct"))
            if name.startswith("propagated") and None not in (error, direct) and direct < error:
                losses.append(
                    (f"{name} differences are less accurate than direct ones", f"ε = {row['eps']:.0e}")
                )
    finest = min(section["rows"], key=lambda row: row["eps"])
    listed = ", ".join(
        f"{name} {100 * value:.2g} %" for name, value in finest["errors"].items() if value is not None
    )
    return (
        f"**Accuracy of a loss difference** at ε = {finest['eps']:.0e}, median relative error: {listed}.",
        losses,
    )


def _curves(section: dict[str, Any]) -> tuple[str, list[Loss]]:
    rows = section["throughput"]["rows"]
    best = max(rows, key=lambda row: row["central"])
    above = [row["batch"] for row in rows if row["central"] >= 1]
    listed = f"at or above it at batch {', '.join(map(str, above))}" if above else "below it at every batch"
    slow = [
        ("an evaluation costs more than a forward pass", f"batch {row['batch']}")
        for row in rows
        if row["central"] < 1
    ]
    sentence = (
        f"**Evaluations beside plain inference**, central, {section['throughput']['network']}: "
        f"{best['central']:.2f}× its throughput at batch {best['batch']}, {listed}."
    )
    return sentence, slow


def _memory(section: dict[str, Any]) -> tuple[str, list[Loss]]:
    parts, losses = [], []
    for case in section["cases"]:
        ours = next(one for one in case["methods"] if one["family"] == "fused")
        parts.append(f"{case['name']}: {number(ours['excess_mib'], 'MiB')}")
        for other in case["methods"]:
            if other["family"] != "fused" and other["excess_mib"] < ours["excess_mib"]:
                losses.append((f"{other['label']} needs less memory", case["name"]))
    return f"**Peak memory of a fused step over inference.** {'; '.join(parts)}.", losses


def _fastest(methods: list[dict[str, Any]], taken: dict[str, float | None]) -> dict[str, Any]:
    def key(method: dict[str, Any]) -> float:
        seconds = taken[method["name"]]
        return float("inf") if seconds is None else seconds

    return min(methods, key=key)


def _times(ratio: float) -> str:
    return f"{ratio:.0f}×" if ratio >= 10 else f"{ratio:.1f}×"


_DESCRIBE = {
    "gpu_checks": summarise_checks,
    "gpu_goals": summarise_goals,
    "step_time": _step_time,
    "curves": _curves,
    "accuracy": _accuracy,
    "memory": _memory,
}
