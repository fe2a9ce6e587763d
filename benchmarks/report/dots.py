"""Dots with intervals on a logarithmic axis: no bar whose length depends on where the axis happens to begin."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from math import inf
from typing import Any, NamedTuple

from benchmarks.report.ticks import plain_ticks
from zo_triton._figures import INK, QUIET, RULE, WIDTH
from zo_triton._tables import number

ROW = 0.47
"""Inches of a row: its label, and below it the dot."""

LETTERS = 44
"""Of a label in a line; a longer one would run into the value at the other end, and goes on in a second line."""

MARGIN = 1.25
"""The axis reaches so many times beyond the smallest and the largest value."""


class Dot(NamedTuple):
    """A row: a value, its quartiles where it has any, or what is said instead of a value that there is not."""

    label: str
    value: float | None
    colour: str
    bold: bool = False
    quartiles: Sequence[float | None] | None = None
    instead: str = ""


def dots(figure: Any, panels: Sequence[tuple[str, Sequence[Dot]]], unit: str, least: float = 0.0) -> Any:
    """One panel a case, a row a method in the order given, on an axis that all panels share.

    Args:
        figure: An empty matplotlib figure; its height becomes that of the rows.
        panels: Titles and rows.
        unit: Of the values.
        least: A value below it is shown as an arrow at it; it can be told by its number alone.

    Returns:
        The last panel's axes.
    """
    every = [row for _, rows in panels for row in rows]
    shown = [max(row.value, least) for row in every if row.value is not None] or [max(least, 1.0)]
    ends = [end for row in every for end in row.quartiles or () if end is not None and end > 0]
    low, high = (pick([*shown, *ends]) for pick in (min, max))
    limits = low / MARGIN, max(high, 2 * low) * MARGIN
    counts = [len(rows) for _, rows in panels]
    titled = 0.45 * len(panels)
    figure.set_size_inches(WIDTH, ROW * sum(counts) + titled + 0.75)
    axes_of = figure.subplots(len(panels), 1, sharex=True, squeeze=False, height_ratios=counts)[:, 0]
    for axes, (title, rows) in zip(axes_of, panels, strict=True):
        axes.set(xscale="log", xlim=limits, ylim=(len(rows) - 0.4, -0.75), title=title)
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        for place, row in enumerate(rows):
            _draw_row(axes, place, row, unit, limits, least)
        plain_ticks(axes.xaxis)
    return axes_of[-1]


def _draw_row(axes: Any, place: int, row: Dot, unit: str, limits: tuple[float, float], least: float) -> None:
    weight = "bold" if row.bold else "normal"
    written: Any = {"transform": axes.get_yaxis_transform(), "va": "center", "fontweight": weight}
    lines = textwrap.wrap(row.label, LETTERS)
    height = 0.38 if len(lines) < 2 else 0.48
    axes.text(0.0, place - height, "\n".join(lines), color=row.colour, **written)
    axes.axhline(place, color=RULE, linewidth=0.8, zorder=1)
    if row.value is None:
        axes.text(1.0, place - 0.38, row.instead, ha="right", **written | {"color": QUIET})
        return
    axes.text(1.0, place - 0.38, number(row.value, unit), ha="right", color=INK, **written)
    if row.quartiles is not None:
        low, high = (end if end is not None else inf for end in row.quartiles)
        axes.plot(
            [max(low, limits[0]), min(high, limits[1])], [place, place], color=row.colour, linewidth=4,
            alpha=0.45, solid_capstyle="butt", zorder=2,
        )  # fmt: skip
    below = row.value < least
    axes.plot(
        max(row.value, least), place, "<" if below else "o", color=row.colour,
        markersize=8 if row.bold else 6.5, zorder=3,
    )  # fmt: skip
