"""What the figures of several sections share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from zo_triton._figures import FAMILIES
from zo_triton._tables import number

DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)))

Bar = tuple[str, float, str]
"""Label, value and family."""


def look(ours: bool, position: int, width: float = 2.2) -> dict[str, Any]:
    """How a curve is drawn: ours solid and wide, the others dashed in turns."""
    return {"linestyle": "-" if ours else DASHES[1 + position % 3], "linewidth": width if ours else 1.5}


def bars_by_case(
    figure: Any,
    cases: Sequence[dict[str, Any]],
    bars_of: Callable[[dict[str, Any]], list[Bar]],
    unit: str,
    limits: tuple[float, float],
) -> Any:
    """One panel a case with a bar a contender, the first on top, on a logarithmic axis that all panels share.

    Args:
        figure: An empty matplotlib figure.
        cases: Each with a ``name``.
        bars_of: From a case to its bars.
        unit: Of the values.
        limits: Of the axis; a bar below the lower one is only its number.

    Returns:
        The last panel's axes.
    """
    every = [bars_of(case)[::-1] for case in cases]
    heights = [len(bars) for bars in every]
    figure.set_size_inches(8.2, 0.27 * sum(heights) + 0.75 * len(cases) + 0.5)
    panels = figure.subplots(len(cases), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    for axes, case, bars in zip(panels, cases, every, strict=True):
        labels, values, families = zip(*bars, strict=True)
        axes.barh(labels, values, color=[FAMILIES[family] for family in families], height=0.72)
        for row, value in enumerate(values):
            axes.annotate(
                number(value, unit), (max(value, limits[0]), row), xytext=(4, 0), textcoords="offset points",
                va="center",
            )  # fmt: skip
        axes.set_title(case["name"], loc="left", fontsize=9, fontweight="bold")
        axes.set(xscale="log", xlim=limits)
        axes.grid(axis="y", visible=False)
    return panels[-1]
