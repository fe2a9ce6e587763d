"""The report's first screen: what won, by how much, and where it lost, worked out from the record."""

from __future__ import annotations

from typing import Any

from zo_triton.reporting.gpu_markdown import summarise_checks, summarise_goals
from zo_triton.reporting.records import Record
from zo_triton.reporting.statistics import median_reached
from zo_triton.reporting.tables import number


def summarise(record: Record) -> list[str]:
    """One sentence an experiment, and a last one that lists every lost comparison.

    Returns:
        Markdown list items without their dash.
    """
    sections = record["sections"]
    lines: list[str] = []
    losses: list[str] = []
    for name, describe in _DESCRIBE.items():
        if name in sections:
            sentence, lost = describe(sections[name])
            lines.append(sentence)
            losses += lost
    if lines:
        lines.append(
            "**Where fused lost:** "
            + ("; ".join(losses) if losses else "nowhere in these measurements")
            + "."
        )
    return lines


def _race(section: dict[str, Any]) -> tuple[str, list[str]]:
    target = max(section["config"]["targets"])
    goal = f"{100 * target:.0f} % test accuracy"
    taken = {one["name"]: median_reached(one["runs"], target, "seconds") for one in section["methods"]}
    ours = _fastest([one for one in section["methods"] if one["family"] == "fused"], taken)
    seconds = taken[ours["name"]]
    head = f"**{goal} on {section['task']}**, {_seeds(len(ours['runs']))}"
    if seconds is None:
        return f"{head}: {ours['label']} did not get there.", [f"{ours['label']} never reached {goal}"]
    parts, losses = [], []
    for other in section["methods"]:
        if other["family"] == "fused":
            continue
        theirs = taken[other["name"]]
        if theirs is None:
            parts.append(f"{other['label']} {number(None)} within {section['config']['run_seconds']:g} s")
        elif theirs < seconds:
            parts.append(f"{other['label']} {number(theirs, 's')} (**{_times(seconds / theirs)} faster**)")
            losses.append(f"{other['label']} reached {goal} {_times(seconds / theirs)} sooner")
        else:
            parts.append(f"{other['label']} {number(theirs, 's')} ({_times(theirs / seconds)} slower)")
    return f"{head}: {ours['label']} takes **{number(seconds, 's')}**; {', '.join(parts)}.", losses


def _seeds(count: int) -> str:
    return "one seed" if count == 1 else f"median of {count} seeds"


def _step_time(section: dict[str, Any]) -> tuple[str, list[str]]:
    parts, losses = [], []
    for case in section["cases"]:
        ours, *others = case["contenders"]
        ratios = []
        for other in others:
            if other["family"] == "fused":
                continue
            ratio = other["median_ms"] / ours["median_ms"]
            if ratio < 1:
                losses.append(f"{other['label']} is {_times(1 / ratio)} quicker ({case['name']})")
            elif other["family"] == "zeroth":
                ratios.append(f"{_times(ratio)} faster than {other['label']}")
        listed = ", ".join(ratios) or "faster than no zeroth-order contender"
        parts.append(f"{case['name']}: {number(ours['median_ms'], 'ms')}, {listed}")
    return f"**One step**, {section['cases'][0]['contenders'][0]['label']}. {'; '.join(parts)}.", losses


def _accuracy(section: dict[str, Any]) -> tuple[str, list[str]]:
    losses = []
    for row in section["rows"]:
        for name, error in row["errors"].items():
            direct = row["errors"].get(name.replace("propagated", "direct"))
            if name.startswith("propagated") and None not in (error, direct) and direct < error:
                losses.append(
                    f"{name} differences are less accurate than direct ones at ε = {row['eps']:.0e}"
                )
    finest = min(section["rows"], key=lambda row: row["eps"])
    listed = ", ".join(
        f"{name} {100 * value:.2g} %" for name, value in finest["errors"].items() if value is not None
    )
    return (
        f"**Accuracy of a loss difference** at ε = {finest['eps']:.0e}, median relative error: {listed}.",
        losses,
    )


def _memory(section: dict[str, Any]) -> tuple[str, list[str]]:
    parts, losses = [], []
    for case in section["cases"]:
        ours = next(one for one in case["methods"] if one["family"] == "fused")
        parts.append(f"{case['name']}: {number(ours['excess_mib'], 'MiB')}")
        for other in case["methods"]:
            if other["family"] != "fused" and other["excess_mib"] < ours["excess_mib"]:
                losses.append(f"{other['label']} needs less memory ({case['name']})")
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
    "race_mnist": _race,
    "race": _race,
    "step_time": _step_time,
    "accuracy": _accuracy,
    "memory": _memory,
}
