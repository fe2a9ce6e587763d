"""Ops against plain torch and their ceilings, and how their cost grows, from the benchmarks' entries."""

from __future__ import annotations

from math import log
from statistics import linear_regression
from typing import Any

from zo_triton._tables import lay_out, number

AXES = ("K", "batch", "width")
"""Sizes that an op's benchmarks vary, one at a time; keys of their ``extra``."""

_MIDDLE = ", middle"

NOTE = (
    "Each op with its noise drawn, beside torch's products of matrices that already lie there, at K = {K}, batch "
    "{batch}, width {width}. *Ceiling*: the share of the time that the machine's own matrix product and memory "
    "would need at least. *Grows with*: slopes of straight lines through the logarithms of time and size, ours "
    "and torch's."
)


def ops(section: dict[str, Any]) -> list[str]:
    """A note and a table, one row an op; nothing if the record has no op in the middle of its axes."""
    found: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for entry in section["entries"]:
        if {"op", "contender", *AXES} <= set(entry["extra"]):
            sides = found.setdefault(entry["extra"]["op"], {"fused": [], "torch": []})
            sides[entry["extra"]["contender"]].append(entry)
    rows, middle = [], None
    for name, sides in found.items():
        ours, theirs = (_middle(sides[side]) for side in ("fused", "torch"))
        if ours is None or theirs is None:
            continue
        middle = ours["extra"]
        growth = [
            number(_exponent(sides[side], middle, axis), missing="–")
            for side in ("fused", "torch")
            for axis in AXES
        ]
        rows.append(
            [
                name,
                number(ours["median_ms"]),
                number(theirs["median_ms"]),
                f"{theirs['median_ms'] / ours['median_ms']:.3g}×",
                f"{100 * middle['roofline']:.3g} %" if "roofline" in middle else "–",
                *growth,
            ]
        )
    if middle is None:
        return []
    titles = [f"{side}: {axis}" for side in ("grows with", "torch") for axis in AXES]
    note = NOTE.format(**{axis: middle[axis] for axis in AXES})
    return [note, lay_out(["op", "fused ms", "torch ms", "quicker", "ceiling", *titles], rows)]


def _middle(entries: list[dict[str, Any]]) -> dict[str, Any] | None:
    return next((entry for entry in entries if entry["group"].endswith(_MIDDLE)), None)


def _exponent(entries: list[dict[str, Any]], middle: dict[str, Any], axis: str) -> float | None:
    """The slope of log time over log size along one axis; None with fewer than three points."""
    others = [name for name in AXES if name != axis]
    line = [entry for entry in entries if all(entry["extra"][name] == middle[name] for name in others)]
    sizes = [log(entry["extra"][axis]) for entry in line]
    if len(set(sizes)) < 3:
        return None
    return linear_regression(sizes, [log(entry["median_ms"]) for entry in line]).slope
