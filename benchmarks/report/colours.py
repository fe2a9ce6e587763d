"""Each method's colour, one and the same in all figures of all reports.

Ours and three others that everybody asks for stand out: backpropagation, the MeZO loop and torch's ``vmap``. All
else is grey. What shares a colour is told apart by its dashes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from benchmarks.report.section import Data
from benchmarks.report.statistics import OURS
from zo_triton._figures import BLUE, GREEN, OLIVE, PURPLE, QUIET, VERMILION

DASHES: tuple[Any, ...] = ("-", (0, (4, 1.5)), (0, (1.2, 1.2)), (0, (6, 1.5, 1.2, 1.5)))


def colour_of(method: Data) -> str:
    """The colour of what has a ``label`` and a ``family``."""
    label = method["label"]
    if method["family"] == OURS:
        return VERMILION if "on activations" in label else BLUE
    if label.startswith("backprop"):
        return GREEN
    if label.startswith("MeZO"):
        return PURPLE
    return OLIVE if label.startswith("vmap") else QUIET


def looks(methods: Iterable[Data]) -> list[dict[str, Any]]:
    """How each one's curve is drawn: ours wide, grey ones thin; of those of one colour all but the first dashed."""
    found, before = [], Counter[str]()
    for method in methods:
        colour = colour_of(method)
        ours, grey = method["family"] == OURS, colour == QUIET
        found.append(
            {
                "color": colour,
                "linestyle": DASHES[before[colour] % len(DASHES)],
                "linewidth": 2.2 if ours else 1.0 if grey else 1.5,
                "zorder": 4 if ours else 2 if grey else 3,
            }
        )
        before[colour] += 1
    return found
