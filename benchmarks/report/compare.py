"""Two records side by side: what became slower or larger, with intervals, and what only looks so.

Times are taken relative to the steps of contenders of the same process that are not ours, because one machine runs
at different speeds at different times; races are compared over the ranges of their seeds. Nothing is flagged unless
the whole interval lies beyond the allowed ratio.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median
from typing import Any

from benchmarks.report.records import Record, is_race
from benchmarks.report.statistics import find
from zo_triton._tables import NOT_REACHED, lay_out, number

ALLOWED = 1.1
"""Ratios up to this are taken for noise unless the caller says otherwise."""

OURS = "fused"

SCATTER = 3 * 1.4826
"""Three standard deviations in median absolute deviations: tens of figures are looked at together."""

NOTCH = 1.57
"""Half-width of a median's interval in interquartile ranges over √n (McGill, Tukey and Larsen, "Variations of box
plots", 1978)."""

WORSE, BETTER, SAME = "worse", "better", ""


@dataclass(frozen=True)
class Change:
    """One figure in both records.

    Attributes:
        what: Section, case and contender.
        before: With its unit.
        after: Likewise.
        ratio: After over before, above 1 is worse; infinite if only the later record failed to get there, 0 if only
            the earlier one did.
        low: Lower end of the ratio's interval.
        high: Upper end.
    """

    what: str
    before: str
    after: str
    ratio: float
    low: float
    high: float

    def verdict(self, allowed: float) -> str:
        """:data:`WORSE` or :data:`BETTER` if the whole interval is beyond the ratio or its inverse."""
        return WORSE if self.low > allowed else BETTER if self.high < 1 / allowed else SAME


def compare(before: Record, after: Record) -> list[Change]:
    """Every figure that both records have: step times, times to the races' targets, peak memory."""
    old, new = before["sections"], after["sections"]
    changes: list[Change] = []
    for name in new:
        rule = _race if is_race(name) else _RULES.get(name)
        if rule is not None and name in old:
            changes += rule(old[name], new[name])
    return changes


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
    parts = [
        f"{len(changes)} figures, {counts[0]} worse, {counts[1]} better by more than {allowed:g}×: "
        f"{_origin(before)} → {_origin(after)}."
    ]
    for key in ("device", "threads"):
        one, other = before["environment"][key], after["environment"][key]
        if one != other:
            parts.append(f"**Not the same {key}**: {one} and {other}. Differences are the machines'.")
    rows = [
        [
            change.what, change.before, change.after, _times(change.ratio),
            f"{_times(change.low)} – {_times(change.high)}", change.verdict(allowed),
        ]
        for change in changes
    ]  # fmt: skip
    if rows:
        parts.append(lay_out(["what", "before", "after", "ratio", "interval", ""], rows))
    return "\n\n".join(parts)


def _origin(record: Record) -> str:
    facts = record["environment"]
    return f"`{str(facts['commit'])[:9]}`{'+' if facts['dirty'] else ''} of {facts['date'][:10]}"


def _times(ratio: float) -> str:
    return "∞" if math.isinf(ratio) else f"{ratio:.2f}×"


def _step_time(old: dict[str, Any], new: dict[str, Any]) -> Iterator[Change]:
    for case in new["cases"]:
        earlier = find(old["cases"], case["name"])
        if earlier is None:
            continue
        found = [(find(earlier["contenders"], after["name"]), after) for after in case["contenders"]]
        both = [(before, after) for before, after in found if before is not None]
        drift, doubt = _drift(
            [(one["median_ms"], other["median_ms"]) for one, other in both if other["family"] != OURS]
        )
        for before, after in both:
            if after["family"] != OURS:
                continue
            ratio = after["median_ms"] / before["median_ms"] / drift
            width = math.exp(math.hypot(doubt, _doubt(before), _doubt(after)))
            yield Change(
                f"step, {case['name']}: {after['label']}", number(before["median_ms"], "ms"),
                number(after["median_ms"], "ms"), ratio, ratio / width, ratio * width,
            )  # fmt: skip


def _drift(pairs: list[tuple[float | None, float | None]]) -> tuple[float, float]:
    """How many times slower the machine was for code that is not ours, and how far a contender may be from that.

    The others' scatter about their median is what a machine does to one contender and not to the next.
    """
    ratios = [math.log(after / before) for before, after in pairs if before and after]
    if not ratios:
        return 1.0, 0.0
    middle = median(ratios)
    return math.exp(middle), SCATTER * median(abs(ratio - middle) for ratio in ratios)


def _doubt(row: dict[str, Any]) -> float:
    """Relative half-width of a median's interval; older records have no quartiles but the fastest time."""
    low, high = row.get("quartiles_ms") or (row["fastest_ms"], 2 * row["median_ms"] - row["fastest_ms"])
    return NOTCH * (high - low) / math.sqrt(row["repeats"]) / row["median_ms"]


def _race(old: dict[str, Any], new: dict[str, Any]) -> Iterator[Change]:
    if old["task"] != new["task"]:
        return
    targets = [f"{target:g}" for target in new["config"]["targets"] if target in old["config"]["targets"]]
    found = [(find(old["methods"], method["name"]), method) for method in new["methods"]]
    drift, doubt = _drift(
        [(one["step_ms"], other["step_ms"]) for one, other in found if one and other["family"] != OURS]
    )
    for earlier, method in found:
        both = earlier is not None and earlier["runs"] and method["runs"]
        for target in targets if both else ():
            assert earlier is not None
            before, after = (_seconds(each, target) for each in (earlier, method))
            if not (math.isfinite(before[1]) or math.isfinite(after[1])):
                continue
            share = f"{100 * float(target):g} %"
            ratio, low, high = (
                _over(after[late], before[early]) / drift for late, early in ((1, 1), (0, 2), (2, 0))
            )
            yield Change(
                f"race, {new['task']}: {method['label']} to {share}", _reached(before[1]), _reached(after[1]),
                ratio, low / math.exp(doubt), high * math.exp(doubt),
            )  # fmt: skip


def _seconds(method: dict[str, Any], target: str) -> tuple[float, float, float]:
    """Fastest, median and slowest of the seeds; infinite where the target was not reached."""
    reached = [run["reached"][target] for run in method["runs"]]
    taken = sorted(math.inf if one is None else float(one["seconds"]) for one in reached)
    return taken[0], taken[len(taken) // 2], taken[-1]


def _over(after: float, before: float) -> float:
    """A ratio of times; two that were not reached tell nothing."""
    if math.isinf(after):
        return 1.0 if math.isinf(before) else math.inf
    return 0.0 if math.isinf(before) else after / before


def _reached(seconds: float) -> str:
    return NOT_REACHED if math.isinf(seconds) else number(seconds, "s")


def _memory(old: dict[str, Any], new: dict[str, Any]) -> Iterator[Change]:
    """Peaks hardly vary: the ratio is its own interval."""
    for case in new["cases"]:
        earlier = find(old["cases"], case["name"])
        for one in case["methods"] if earlier else ():
            assert earlier is not None
            other = find(earlier["methods"], one["name"])
            if other is None or not other["excess_mib"] or not one["excess_mib"]:
                continue
            ratio = one["excess_mib"] / other["excess_mib"]
            yield Change(
                f"memory, {case['name']}: {one['label']}", number(other["excess_mib"], "MiB"),
                number(one["excess_mib"], "MiB"), ratio, ratio, ratio,
            )  # fmt: skip


_RULES = {"step_time": _step_time, "memory": _memory}
