"""Where the time of a fused step goes."""

from __future__ import annotations

from typing import Any

from benchmarks.report.section import Data, Figure, Section, Show
from zo_triton._figures import COLOURS, PAPER, QUIET, WIDTH
from zo_triton._tables import lay_out, number

ROOM = 22
"""Percent of a step that a part must have for its milliseconds to fit into its bar."""


def blocks(section: Data, show: Show) -> list[str]:
    """One table of all cases."""
    return ["## Where a step's time goes", section["note"], table(section), *show("step_split")]


def table(section: Data) -> str:
    """One row a case: milliseconds of each part and of a whole step."""
    names = list(section["cases"][0]["parts"])
    rows = [
        [case["name"], *(number(case["parts"][name]) for name in names), number(case["step_ms"])]
        for case in section["cases"]
    ]
    return lay_out(["case", *(f"{name} ms" for name in names), "whole step ms"], rows)


def draw(figure: Any, section: Data) -> None:
    """One bar a case, in shares of a step; a part has its milliseconds where there is room for them."""
    cases = section["cases"]
    figure.set_size_inches(WIDTH, 0.62 * len(cases) + 1.5)
    axes = figure.subplots()
    names = list(cases[0]["parts"])
    left = [0.0] * len(cases)
    for colour, name in zip((*COLOURS, QUIET), names, strict=False):
        shares = [100 * case["parts"][name] / sum(case["parts"].values()) for case in cases]
        axes.barh(range(len(cases)), shares, left=left, color=colour, height=0.42, label=name)
        for place, (start, share, case) in enumerate(zip(left, shares, cases, strict=True)):
            if share >= ROOM:
                text = number(case["parts"][name], "ms")
                axes.text(start + share / 2, place, text, ha="center", va="center", color=PAPER)
        left = [start + share for start, share in zip(left, shares, strict=True)]
    for place, case in enumerate(cases):
        axes.text(0, place - 0.42, case["name"], va="center")
    axes.set(xlim=(0, 100), ylim=(len(cases) - 0.6, -0.7), xlabel="share of one fused step [%]")
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    figure.legend(loc="outside upper left", ncols=3)


SECTION = Section(
    name="step_split",
    place=40,
    keys=("note", "cases"),
    blocks=blocks,
    figures=(Figure("step_split", "Where a fused step's time goes", draw),),
)
