"""Peak memory of a step over that of inference."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from benchmarks.report.changes import Change
from benchmarks.report.colours import colour_of
from benchmarks.report.dots import Dot, dots
from benchmarks.report.section import Data, Figure, Findings, Loss, Section, Show
from benchmarks.report.statistics import OURS, find
from benchmarks.report.words import pointed
from zo_triton._figures import QUIET
from zo_triton._tables import lay_out, number

SMALLEST_MIB = 0.1
"""What is less is an arrow in the figure, at this much."""


def blocks(section: Data, show: Show) -> list[str]:
    """A table a case."""
    found = ["## Peak memory", section["note"]]
    for case in section["cases"]:
        found += [f"### {case['name']}", table(case)]
    return found + show("memory")


def table(case: Data) -> str:
    """One row a method, with its ratio to one chunk of differences."""
    rows = [
        [method["label"], number(method["excess_mib"]), f"{method['excess_mib'] / case['chunk_mib']:.3g}×"]
        for method in case["methods"]
    ]
    return lay_out(
        ["method", "MiB over inference", f"against one chunk of {case['chunk_mib']:.3g} MiB"], rows
    )


def draw(figure: Any, section: Data) -> None:
    """Peaks, the least on top, and one chunk of differences beside them."""
    axes = dots(figure, [(case["name"], _dots(case)) for case in section["cases"]], "MiB", SMALLEST_MIB)
    axes.set_xlabel("peak memory of a step over inference [MiB],\nlogarithmic")


def _dots(case: Data) -> list[Dot]:
    rows = [
        Dot(one["label"], one["excess_mib"], colour_of(one), one["family"] == OURS) for one in case["methods"]
    ]
    rows.append(Dot("one chunk of differences", case["chunk_mib"], QUIET))
    return sorted(rows, key=lambda row: row.value or 0.0)


def findings(section: Data) -> Findings:
    """The first fused method's peak in each case."""
    told: list[str] = []
    lost: list[Loss] = []
    for case in section["cases"]:
        ours = next((one for one in case["methods"] if one["family"] == OURS), None)
        if ours is None:
            continue
        told.append(f"{number(ours['excess_mib'], 'MiB')} on {case['name']}.")
        for other in case["methods"]:
            if other["family"] != OURS and other["excess_mib"] < ours["excess_mib"]:
                lost.append((f"{other['label']} needs less memory", case["name"]))
    if not told:
        return Findings()
    return Findings([pointed("**Peak memory of a fused step over inference:**", told)], lost)


def changes(old: Data, new: Data) -> Iterator[Change]:
    """Peaks hardly vary: the ratio is its own interval."""
    for case in new["cases"]:
        earlier = find(old["cases"], case["name"])
        for after in case["methods"] if earlier else ():
            assert earlier is not None
            before = find(earlier["methods"], after["name"])
            if before is None or not before["excess_mib"] or not after["excess_mib"]:
                continue
            ratio = after["excess_mib"] / before["excess_mib"]
            yield Change(
                f"memory, {case['name']}: {after['label']}", number(before["excess_mib"], "MiB"),
                number(after["excess_mib"], "MiB"), ratio, ratio, ratio,
            )  # fmt: skip


SECTION = Section(
    name="memory",
    place=70,
    keys=("note", "cases"),
    blocks=blocks,
    figures=(Figure("memory", "Peak memory over inference", draw),),
    findings=findings,
    changes=changes,
)
