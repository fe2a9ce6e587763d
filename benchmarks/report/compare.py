"""Two records side by side: what became slower or larger, with intervals, and what only looks so.

Times are taken relative to the steps of contenders of the same process that are not ours, because one machine runs
at different speeds at different times; races are compared over the ranges of their seeds. Only what both records
have is looked at, and nothing is flagged unless the whole interval lies beyond the allowed ratio.
"""

from __future__ import annotations

import math

from benchmarks.report.changes import BETTER, SAME, WORSE, Change
from benchmarks.report.records import Record
from benchmarks.report.registry import parts
from zo_triton._tables import lay_out

__all__ = ["ALLOWED", "BETTER", "SAME", "WORSE", "Change", "check_allowed", "compare", "render"]

ALLOWED = 1.1
"""Ratios up to this are taken for noise unless the caller says otherwise."""


def compare(before: Record, after: Record) -> list[Change]:
    """Every figure that both records have: step times, times to the races' targets, peak memory."""
    old = before["sections"]
    return [
        change
        for section, key, data in parts(after)
        if key in old
        for change in section.changes(old[key], data)
    ]


def check_allowed(allowed: float) -> None:
    """Refuses a ratio that would flag everything.

    Raises:
        ValueError: It is not a number of at least 1.
    """
    if not 1 <= allowed < math.inf:
        raise ValueError(f"the allowed ratio must be at least 1, got {allowed}; 1.1 allows a tenth more.")


def render(before: Record, after: Record, allowed: float = ALLOWED) -> str:
    """What changed, in one table, the worst first.

    Raises:
        ValueError: ``allowed`` is below 1.
    """
    check_allowed(allowed)
    changes = sorted(compare(before, after), key=lambda change: -change.ratio)
    counts = [sum(change.verdict(allowed) == verdict for change in changes) for verdict in (WORSE, BETTER)]
    blocks = [
        f"{len(changes)} figures, {counts[0]} worse, {counts[1]} better by more than {allowed:g}×: "
        f"{_origin(before)} → {_origin(after)}."
    ]
    for key in ("device", "threads"):
        one, other = before["environment"][key], after["environment"][key]
        if one != other:
            blocks.append(f"**Not the same {key}**: {one} and {other}. Differences are the machines'.")
    if before["tiny"] or after["tiny"]:
        blocks.append("**A tiny run is among them**: its numbers mean nothing.")
    rows = [
        [
            change.what, change.before, change.after, _times(change.ratio),
            f"{_times(change.low)} – {_times(change.high)}", change.verdict(allowed),
        ]
        for change in changes
    ]  # fmt: skip
    if rows:
        blocks.append(
            "A time's ratio is against rivals: over that of the same process' contenders that are not ours, so "
            "that a machine's own pace drops out."
        )
        blocks.append(lay_out(["what", "before", "after", "ratio against rivals", "interval", ""], rows))
    return "\n\n".join(blocks)


def _origin(record: Record) -> str:
    facts = record["environment"]
    return f"`{str(facts['commit'])[:9]}`{'+' if facts['dirty'] else ''} of {facts['date'][:10]}"


def _times(ratio: float) -> str:
    return "∞" if math.isinf(ratio) else f"{ratio:.2f}×"
