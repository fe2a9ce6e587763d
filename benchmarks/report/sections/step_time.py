"""What one step costs, contender by contender."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from benchmarks.report.changes import Change, drift
from benchmarks.report.colours import colour_of
from benchmarks.report.dots import Dot, dots
from benchmarks.report.section import Data, Figure, Findings, Loss, Section, Show
from benchmarks.report.statistics import OURS, find
from benchmarks.report.words import LEVEL, pointed, times
from zo_triton._tables import lay_out, number

LOOP = "MeZO loop"
"""The contender that everybody knows."""

YARDSTICK = "mezo"
"""Whose step time tells a slower machine from slower code."""

NOTCH = 1.57
"""Half-width of a median's interval in interquartile ranges over √n (McGill, Tukey and Larsen, "Variations of box
plots", 1978)."""


def blocks(section: Data, show: Show) -> list[str]:
    """A table a case."""
    found = ["## Step time", section["note"]]
    for case in section["cases"]:
        found += [f"### {case['name']}", table(case)]
    return found + show("step_time")


def table(case: Data) -> str:
    """One row a contender, with its ratio to the case's first; older records don't relate it to inference."""
    first = case["contenders"][0]
    related = all("of_inference" in contender for contender in case["contenders"])
    rows = [
        [
            contender["label"],
            number(contender["median_ms"]),
            f"{contender['median_ms'] / first['median_ms']:.3g}×",
            *([f"{contender['of_inference']:.3g}×"] if related else []),
            str(contender["evaluations"]),
            number(contender["fastest_ms"]),
            contender["dtype"],
        ]
        for contender in case["contenders"]
    ]
    headers = ["contender", "median ms", f"against {first['label']}"]
    headers += ["evaluations a second, inference = 1×"] if related else []
    return lay_out([*headers, "evaluations", "fastest ms", "dtype"], rows)


def draw(figure: Any, section: Data) -> None:
    """Median times with their quartiles, the quickest on top."""
    panels = [
        (case["name"], [_dot(one) for one in sorted(case["contenders"], key=lambda one: one["median_ms"])])
        for case in section["cases"]
    ]
    axes = dots(figure, panels, "ms")
    axes.set_xlabel("milliseconds a step, logarithmic\n(band: quartiles)")


def _dot(one: Data) -> Dot:
    ours = one["family"] == OURS
    return Dot(one["label"], one["median_ms"], colour_of(one), ours, one.get("quartiles_ms"))


def findings(section: Data) -> Findings:
    """Each case's first contender beside the loop that everybody knows and whoever comes closest."""
    told: list[str] = []
    lost: list[Loss] = []
    for case in section["cases"]:
        ours, *others = case["contenders"]
        ratios: dict[str, float] = {}
        for other in others:
            if other["family"] == OURS:
                continue
            ratio = other["median_ms"] / ours["median_ms"]
            if ratio < 1 / LEVEL:
                lost.append(
                    (f"{other['label']} has the quicker step", f"{case['name']} ({times(1 / ratio)})")
                )
            elif other["family"] == "zeroth":
                ratios[other["label"]] = ratio
        nearest = min(ratios, key=lambda label: ratios[label], default=None)
        named = dict.fromkeys(label for label in (LOOP, nearest) if label in ratios)
        standing = [_standing(label, ratios[label]) for label in named]
        if not named and any(other["family"] == "zeroth" for other in others):
            standing = ["slower than every other zeroth-order contender"]
        told.append(", ".join([f"{case['name']} takes {number(ours['median_ms'], 'ms')}", *standing]) + ".")
    first = section["cases"][0]["contenders"][0]["label"]
    return Findings([pointed(f"**One step**, {first}:", told)], lost)


def _standing(label: str, ratio: float) -> str:
    return f"as quick as {label}" if ratio < LEVEL else f"{times(ratio)} faster than {label}"


def headline(section: Data) -> dict[str, float]:
    """Milliseconds of the first case's fused step, and how many times longer the yardstick takes."""
    found: dict[str, float] = {}
    for case in section["cases"][:1]:
        ours, loop = find(case["contenders"], "zo"), find(case["contenders"], YARDSTICK)
        if ours is not None:
            found["step ms"] = ours["median_ms"]
            if loop is not None:
                found["MeZO over fused"] = loop["median_ms"] / ours["median_ms"]
    return found


def changes(old: Data, new: Data) -> Iterator[Change]:
    """Our steps, relative to the others' drift, with intervals of their medians."""
    for case in new["cases"]:
        earlier = find(old["cases"], case["name"])
        if earlier is None:
            continue
        found = [(find(earlier["contenders"], after["name"]), after) for after in case["contenders"]]
        both = [(before, after) for before, after in found if before is not None]
        speed, doubt = drift(
            [(one["median_ms"], other["median_ms"]) for one, other in both if other["family"] != OURS]
        )
        for before, after in both:
            if after["family"] != OURS:
                continue
            ratio = after["median_ms"] / before["median_ms"] / speed
            width = math.exp(math.hypot(doubt, _doubt(before), _doubt(after)))
            yield Change(
                f"step, {case['name']}: {after['label']}", number(before["median_ms"], "ms"),
                number(after["median_ms"], "ms"), ratio, ratio / width, ratio * width,
            )  # fmt: skip


def _doubt(row: Data) -> float:
    """Relative half-width of a median's interval; older records have no quartiles but the fastest time."""
    low, high = row.get("quartiles_ms") or (row["fastest_ms"], 2 * row["median_ms"] - row["fastest_ms"])
    return NOTCH * (high - low) / math.sqrt(row["repeats"]) / row["median_ms"]


SECTION = Section(
    name="step_time",
    place=30,
    timed=True,
    keys=("note", "cases"),
    blocks=blocks,
    figures=(Figure("step_time", "Step times", draw),),
    findings=findings,
    changes=changes,
    headline=headline,
)
