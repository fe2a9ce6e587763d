"""How findings are put into words, so that no number makes a sentence false or silly."""

from __future__ import annotations

from collections.abc import Sequence

LEVEL = 1.005
"""Ratios below this are a tie: they would be told as 1.00×."""


def times(ratio: float) -> str:
    """A ratio as a factor, with the digits that tell it from 1."""
    return f"{ratio:.0f}×" if ratio >= 10 else f"{ratio:.1f}×" if ratio >= 1.095 else f"{ratio:.2f}×"


def among(some: Sequence[str], everything: Sequence[str], kind: str) -> str:
    """``on a`` of one, ``in both races``, ``in all 3 races``, or ``in 2 of 3 races, on a and b``."""
    assert some
    if len(everything) == 1:
        return f"on {everything[0]}"
    if len(some) == len(everything):
        return f"in both {kind}s" if len(some) == 2 else f"in all {len(some)} {kind}s"
    return f"in {len(some)} of {len(everything)} {kind}s, on {listed(some)}"


def listed(names: Sequence[str], last: str = "and") -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    return f" {last} ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))


def pointed(head: str, points: Sequence[str]) -> str:
    """A list's item: a single point goes on in its head's line, several stand in a list of their own below it."""
    if len(points) == 1:
        return f"{head} {points[0]}"
    return "\n".join([head, *(f"    - {point}" for point in points)])


def seeds(count: int) -> str:
    """How many seeds a number is the median of."""
    return "one seed" if count == 1 else f"median of {count} seeds"


def error(value: float | None) -> str:
    """An error with two digits; a dash where there is none."""
    return "–" if value is None else f"{value:.1e}"
