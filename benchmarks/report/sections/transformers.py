"""What a step costs on transformers, beside the MeZO loop, vmap and a plain forward pass."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from benchmarks.report.changes import Change
from benchmarks.report.colours import colour_of
from benchmarks.report.dots import Dot, dots
from benchmarks.report.section import Data, Figure, Findings, Loss, Section, Show
from benchmarks.report.sections import memory, step_time
from benchmarks.report.statistics import OURS, find
from benchmarks.report.words import LEVEL, listed, pointed, times
from zo_triton._tables import lay_out, number

LOOP, VMAP, FORWARD = "mezo-1", "vmap-chunked", "forward"
LOST = {LOOP: "MeZO loop has the quicker step", VMAP: "vmap has the quicker step"}

COMPARED = (
    ("a step", "the MeZO loop's along as many directions", LOOP),
    ("an evaluation", "a pass of the MeZO loop", "evaluations"),
    ("a step", "vmap's", VMAP),
)
"""Whose sentences there are: what is compared, with what."""

REMEDY = "`pip install 'zo_triton[transformers]'`"


def blocks(section: Data, show: Show) -> list[str]:
    """What came out, a table of steps, and one of peak memory."""
    heading = "## Transformers"
    if section["missing"]:
        return [heading, f"Left out: {listed(section['missing'])} is not installed; {REMEDY}."]
    points = ["\n".join(f"- {point}" for point in _points(section))] if section["cases"] else []
    found = [heading, section["note"], *points, table(section), *show("transformers")]
    for case in section["memory"]:
        found += [
            f"### Peak memory of {case['name']}",
            "The most that was allocated during the first two steps beyond what the weights and the libraries had "
            "before, counted by the allocator; each method in a process of its own. *Resident* is the same by the "
            "kernel's high-water mark.",
            _memory_table(case),
        ]
    return found


def table(section: Data) -> str:
    """One row a case and dtype of ours."""
    headers = [
        "network", "K", "dtype", "ms a step", "faster than MeZO", "as many evaluations", "faster than vmap",
        "passes an evaluation", "MeZO loop, ms", "vmap, ms", "plain pass, ms",
    ]  # fmt: skip
    rows = []
    for case in section["cases"]:
        loop, vmapped, forward = (_milliseconds(case, name) for name in (LOOP, VMAP, FORWARD))
        for ours in _ours(case):
            rows.append(
                [
                    case["network"], str(case["directions"]), ours["dtype"], number(ours["median_ms"]),
                    *(_factor(_ratio(case, ours, name)) for name in (LOOP, "evaluations", VMAP)),
                    number(_passes(case, ours)), number(loop, missing="–"), number(vmapped, missing="–"),
                    number(forward),
                ]
            )  # fmt: skip
    return lay_out(headers, rows)


def _memory_table(case: Data) -> str:
    rows = [
        [
            one["label"], one["dtype"], number(one["excess_mib"]),
            f"{one['excess_mib'] / case['weights_mib']:.3g}×", number(one["resident_mib"]),
        ]
        for one in case["methods"]
    ]  # fmt: skip
    weights = f"over the weights' {number(case['weights_mib'], 'MiB')}"
    return lay_out(["method", "dtype", "MiB over the weights", weights, "resident, MiB"], rows)


def _ours(case: Data) -> list[Data]:
    return [one for one in case["contenders"] if one["family"] == OURS]


def _milliseconds(case: Data, name: str) -> float | None:
    """A contender's step; of the loop, which was timed along one direction, that of all K."""
    found = find(case["contenders"], name)
    if found is None:
        return None
    return found["median_ms"] * (case["directions"] if name == LOOP else 1)


def _ratio(case: Data, ours: Data, name: str) -> float | None:
    """How many times as long a rival's step takes as ours; ``evaluations``: a pass of the loop as an evaluation."""
    theirs = _milliseconds(case, LOOP if name == "evaluations" else name)
    if theirs is None:
        return None
    if name == "evaluations":
        theirs *= ours["evaluations"] / (2 * case["directions"])
    return theirs / ours["median_ms"]


def _passes(case: Data, ours: Data) -> float:
    """Plain forward passes that an evaluation costs."""
    forward = _milliseconds(case, FORWARD)
    assert forward is not None
    return (ours["median_ms"] - forward) / case["directions"] / forward


def _factor(ratio: float | None) -> str:
    return "–" if ratio is None else f"{ratio:.3g}×"


def _points(section: Data) -> list[str]:
    """Won and lost in at least one case, of the first dtype of ours, which is the rivals'."""
    cases = [(case, _ours(case)[0]) for case in section["cases"]]
    told = []
    for what, rival, name in COMPARED:
        known = [(case, ratio) for case, ours in cases if (ratio := _ratio(case, ours, name)) is not None]
        if known:
            told.append(f"Beside {rival} {what} is {_standing(known)}.")
    passes = sorted(_passes(case, ours) for case, ours in cases)
    span = dict.fromkeys(number(each) for each in (passes[0], passes[-1]))
    told.append(f"An evaluation costs {' to '.join(span)} plain forward passes.")
    for case in section["memory"]:
        peaks = ", ".join(f"{one['label']} {number(one['excess_mib'], 'MiB')}" for one in case["methods"])
        weights = number(case["weights_mib"], "MiB")
        told.append(f"Peak memory over the {weights} of weights of {_short(case)}: {peaks}.")
    return told


def _standing(ratios: list[tuple[Data, float]]) -> str:
    """``faster on …; slower on …``, each case with its factor, but only counted where many were won."""
    known = [(_short(case), ratio) for case, ratio in ratios]
    places = {
        "slower": [f"{name} ({times(1 / ratio)})" for name, ratio in known if ratio < 1 / LEVEL],
        "as quick": [name for name, ratio in known if 1 / LEVEL <= ratio <= LEVEL],
    }
    parts = [f"{word} on {listed(names)}" for word, names in places.items() if names]
    won = sorted(ratio for _, ratio in known if ratio > LEVEL)
    if len(won) > 2:
        span = dict.fromkeys(times(ratio) for ratio in (won[0], won[-1]))
        parts.insert(0, f"faster in {len(won)} of {len(known)} cases ({' to '.join(span)})")
    elif won:
        names = [f"{name} ({times(ratio)})" for name, ratio in known if ratio > LEVEL]
        parts.insert(0, f"faster on {listed(names)}")
    return "; ".join(parts)


def _short(case: Data) -> str:
    return f"{case['network']}, K = {case['directions']}"


def draw(figure: Any, section: Data) -> None:
    """Median times, the loop's for all K directions, the quickest on top."""
    axes = dots(figure, [(case["name"], _dots(case)) for case in section["cases"]], "ms")
    axes.set_xlabel("milliseconds a step on one thread, logarithmic\n(band: quartiles)")


def _dots(case: Data) -> list[Dot]:
    rows = []
    for one in case["contenders"]:
        label = f"MeZO loop, K = {case['directions']}" if one["name"] == LOOP else one["label"]
        label += "" if one["dtype"] == "float32" else f", {one['dtype']}"
        value = _milliseconds(case, one["name"])
        assert value is not None
        times_each = value / one["median_ms"]
        band = [times_each * end for end in one.get("quartiles_ms") or ()] or None
        rows.append((value, Dot(label, value, colour_of(one), one["family"] == OURS, band)))
    return [row for _, row in sorted(rows, key=lambda found: found[0])]


def findings(section: Data) -> Findings:
    """The same sentences, and every step and every peak that was lost."""
    if not section["cases"]:
        return Findings()
    lost: list[Loss] = []
    for case in section["cases"]:
        for name, who in LOST.items():
            ratio = _ratio(case, _ours(case)[0], name)
            if ratio is not None and ratio < 1 / LEVEL:
                lost.append((who, f"{_short(case)} ({times(1 / ratio)})"))
    lost += memory.findings({"cases": section["memory"]}).lost or ()
    head = f"**Steps on transformers** ({_ours(section['cases'][0])[0]['label']}, one thread):"
    return Findings([pointed(head, _points(section))], lost)


def headline(section: Data) -> dict[str, float]:
    """GPT-2's largest K: the loop's step and vmap's over ours."""
    cases = [case for case in section["cases"] if case["network"] == "GPT-2"]
    if not cases:
        return {}
    case = max(cases, key=lambda one: one["directions"])
    found = {f"MeZO over fused, {_short(case)}": LOOP, f"vmap over fused, {_short(case)}": VMAP}
    ratios = {label: _ratio(case, _ours(case)[0], name) for label, name in found.items()}
    return {label: ratio for label, ratio in ratios.items() if ratio is not None}


def changes(old: Data, new: Data) -> Iterator[Change]:
    """Our steps as in the table of steps, and the peaks."""
    yield from step_time.changes(old, new)
    yield from memory.changes({"cases": old["memory"]}, {"cases": new["memory"]})


SECTION = Section(
    name="transformers",
    place=35,
    timed=True,
    keys=("note", "missing", "cases", "memory"),
    blocks=blocks,
    figures=(
        Figure("transformers", "Step times on transformers", draw, lambda section: bool(section["cases"])),
    ),
    findings=findings,
    changes=changes,
    headline=headline,
)
