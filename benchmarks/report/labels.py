"""Labels beside the ends of curves, where no legend has to be looked up and none lies on another."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any, NamedTuple

from zo_triton._figures import SMALLEST

LEADING = 1.25
"""A line's height in letters."""

BESIDE = 1.05
"""Where labels begin, in widths of the axes."""


class Label(NamedTuple):
    """A curve's name and its last point; ``bold`` for those of the project."""

    text: str
    end: tuple[float, float]
    colour: str
    bold: bool = False


def label_ends(axes: Any, labels: Sequence[Label], width: int = 17) -> None:
    """Writes labels to the right of the axes, each tied to its point, pushed apart where they would overlap.

    The axes' limits must be final.

    Args:
        axes: Of a figure with a layout engine.
        labels: One a curve.
        width: Letters in a line of a label.
    """
    heights: list[int] = []
    written = []
    for label in labels:
        lines = textwrap.wrap(label.text, width, break_long_words=False)
        heights.append(len(lines))
        written.append(
            axes.annotate(
                "\n".join(lines), label.end, (BESIDE, 0.5), textcoords="axes fraction", va="center",
                color=label.colour, fontweight="bold" if label.bold else "normal", linespacing=1.0,
                annotation_clip=False,
                arrowprops={
                    "arrowstyle": "-", "color": label.colour, "linewidth": 0.7, "alpha": 0.6, "shrinkA": 1,
                    "shrinkB": 0, "relpos": (0.0, 0.5),
                },
            )
        )  # fmt: skip
    axes.figure.draw_without_rendering()
    box = axes.get_window_extent()
    line = LEADING * SMALLEST / 72 * axes.figure.dpi / box.height
    places = [_fraction(axes, label.end) for label in labels]
    order = sorted(range(len(labels)), key=lambda at: (-places[at][1], places[at][0]))
    centres = spread([places[at][1] for at in order], [heights[at] * line for at in order])
    for at, centre in zip(order, centres, strict=True):
        written[at].xyann = (BESIDE, centre)


def spread(wanted: Sequence[float], heights: Sequence[float]) -> list[float]:
    """Centres as near to the wanted ones as their heights allow, from the top down, within 0 and 1 if they fit.

    Args:
        wanted: Falling.
        heights: One each.
    """
    centres: list[float] = []
    above = max(1.0, sum(heights))
    for centre, height in zip(wanted, heights, strict=True):
        centres.append(min(centre, above - height / 2))
        above = centres[-1] - height / 2
    below = 0.0
    for at in reversed(range(len(centres))):
        centres[at] = max(centres[at], below + heights[at] / 2)
        below = centres[at] + heights[at] / 2
    return centres


def _fraction(axes: Any, point: tuple[float, float]) -> tuple[float, float]:
    """A point's place in the axes, whatever their scales; held within them."""
    across, up = axes.transLimits.transform(axes.transScale.transform(point))
    return float(across), min(max(float(up), 0.0), 1.0)
