"""What ``pytest --benchmark`` timed: ops against plain torch and their ceilings, and every benchmark's time."""

from __future__ import annotations

from math import log
from statistics import linear_regression
from typing import Any

from benchmarks.report.section import Data, Findings, Section, Show
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


def blocks(section: Data, show: Show) -> list[str]:
    """The ops in short, then every benchmark."""
    intro = (
        "From `pytest --benchmark`: each passed its correctness gate first; compilation is not in the times."
    )
    summary = ops(section)
    return [
        "## Benchmarks", intro, *(["### Ops", *summary] if summary else []), "#### Every benchmark",
        table(section),
    ]  # fmt: skip


def table(section: Data) -> str:
    """One row a benchmark, grouped, with its ratio to the group's fastest."""
    entries = sorted(
        section["entries"], key=lambda entry: (entry["group"], entry["median_ms"], entry["name"])
    )
    fastest: dict[str, float] = {}
    rows = []
    for entry in entries:
        reference = fastest.setdefault(entry["group"], entry["median_ms"])
        extra = ", ".join(f"{key} {_plain(value)}" for key, value in sorted(entry["extra"].items()))
        rows.append(
            [
                entry["group"],
                entry["name"],
                number(entry["median_ms"]),
                f"{entry['median_ms'] / reference:.3g}×",
                extra,
                str(entry["commit"])[:9] + ("+" if entry["dirty"] else ""),
            ]
        )
    return lay_out(["group", "benchmark", "median ms", "against fastest", "details", "commit"], rows)


def _plain(value: Any) -> str:
    return number(value) if isinstance(value, float) else str(value)


def ops(section: Data) -> list[str]:
    """A note and a table, one row an op; nothing if the record has no op in the middle of its axes."""
    found: dict[str, dict[str, list[Data]]] = {}
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


def _middle(entries: list[Data]) -> Data | None:
    return next((entry for entry in entries if entry["group"].endswith(_MIDDLE)), None)


def _exponent(entries: list[Data], middle: Data, axis: str) -> float | None:
    """The slope of log time over log size along one axis; None with fewer than three points."""
    others = [name for name in AXES if name != axis]
    line = [entry for entry in entries if all(entry["extra"][name] == middle[name] for name in others)]
    sizes = [log(entry["extra"][axis]) for entry in line]
    if len(set(sizes)) < 3:
        return None
    return linear_regression(sizes, [log(entry["median_ms"]) for entry in line]).slope


def findings(section: Data) -> Findings:
    """How much was timed."""
    count = len(section["entries"])
    return Findings(
        [f"**Benchmarks**: {count} {'time' if count == 1 else 'times'}, each after its correctness gate."]
    )


SECTION = Section(name="benchmarks", place=150, keys=("entries",), blocks=blocks, findings=findings)
