"""Where the time of a fused step goes."""

from __future__ import annotations

from typing import Any

from benchmarks.report.section import Data, Figure, Section, Show
from zo_triton._figures import PALETTE
from zo_triton._tables import lay_out, number


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
    """One bar a case, in shares of a step."""
    cases = section["cases"]
    figure.set_size_inches(8.2, 0.55 * len(cases) + 1.3)
    axes = figure.subplots()
    names = list(cases[0]["parts"])
    positions = list(range(len(cases)))[::-1]
    left = [0.0] * len(cases)
    for place, name in enumerate(names):
        shares = []
        for case in cases:
            total = sum(case["parts"].values())
            shares.append(100 * case["parts"][name] / total)
        axes.barh(positions, shares, left=left, color=PALETTE[place], height=0.6, label=name)
        for position, start, share, case in zip(positions, left, shares, cases, strict=True):
            if share >= 6:
                text = f"{case['parts'][name]:.2g} ms"
                axes.text(
                    start + share / 2, position, text, ha="center", va="center", color="white", fontsize=8
                )
        left = [start + share for start, share in zip(left, shares, strict=True)]
    axes.set_yticks(positions, [case["name"] for case in cases])
    axes.set(xlim=(0, 100), xlabel="share of one fused step [%]")
    axes.grid(axis="y", visible=False)
    figure.legend(loc="outside upper center", ncols=len(names))


SECTION = Section(
    name="step_split",
    place=40,
    keys=("note", "cases"),
    blocks=blocks,
    figures=(Figure("step_split", "Where a fused step's time goes", draw),),
)
