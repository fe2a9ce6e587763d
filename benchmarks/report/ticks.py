"""Ticks of logarithmic axes, told in plain numbers."""

from __future__ import annotations

from math import ceil, floor, log10
from typing import Any

from zo_triton._tables import number

MULTIPLES = ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 5, 7))
"""Of powers of ten: which have ticks, from many to few powers in sight."""

MOST = 4
"""Ticks; of more every other one is left out, or more of them."""


def plain_ticks(axis: Any) -> None:
    """Powers of ten, as many of their multiples as it takes for three ticks, and nothing between them.

    Args:
        axis: Logarithmic, its limits final.
    """
    low, high = sorted(axis.get_view_interval())
    powers = range(floor(log10(low)), ceil(log10(high)) + 1)
    for multiples in MULTIPLES:
        ticks = [multiple * 10.0**power for power in powers for multiple in multiples]
        seen = [tick for tick in ticks if low <= tick <= high]
        if len(seen) >= 3:
            break
    if len(seen) < 2:  # so narrow a view has its ends
        seen = [low, high]
    seen = seen[:: ceil(len(seen) / MOST)]
    axis.set_ticks(seen, [number(tick) for tick in seen])
    axis.set_ticks([], minor=True)
