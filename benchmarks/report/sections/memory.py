"""Peak memory of a step over that of inference."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from benchmarks.report.changes import Change
from benchmarks.report.drawing import Bar, bars_by_case
from benchmarks.report.section import Data, Figure, Findings, Loss, Section, Show
from benchmarks.report.statistics import OURS, find
from zo_triton._tables import lay_out, number

SMALLEST_MIB = 0.1
"""Where the figure's logarithmic axis starts; a bar below it is only its number."""


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
    """Bars of peaks, and of one chunk of differences beside them."""
    largest = max(method["excess_mib"] for case in section["cases"] for method in case["methods"])
    axes = bars_by_case(
        figure, section["cases"], _bars, "MiB", (SMALLEST_MIB, 4 * max(1.0, largest))
    )  # fmt: skip
    axes.set_xlabel("peak memory of a step over that of inference [MiB], logarithmic")


def _bars(case: Data) -> list[Bar]:
    bars = [(method["label"], method["excess_mib"], method["family"]) for method in case["methods"]]
    return [*bars, ("one chunk of differences", case["chunk_mib"], "limit")]


def findings(section: Data) -> Findings:
    """The first fused method's peak in each case."""
    told: list[str] = []
    lost: list[Loss] = []
    for case in section["cases"]:
        ours = next((one for one in case["methods"] if one["family"] == OURS), None)
        if ours is None:
            continue
        told.append(f"{case['name']}: {number(ours['excess_mib'], 'MiB')}")
        for other in case["methods"]:
            if other["family"] != OURS and other["excess_mib"] < ours["excess_mib"]:
                lost.append((f"{other['label']} needs less memory", case["name"]))
    if not told:
        return Findings()
    return Findings([f"**Peak memory of a fused step over inference.** {'; '.join(told)}."], lost)


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
