"""How a step's cost grows with directions, batch and width, and what an evaluation costs beside inference."""

from __future__ import annotations

from typing import Any

from benchmarks.report.colours import DASHES, looks
from benchmarks.report.labels import Label, label_ends
from benchmarks.report.section import Data, Figure, Findings, Section, Show
from benchmarks.report.statistics import OURS
from benchmarks.report.ticks import plain_ticks
from zo_triton._figures import BLUE, QUIET, WIDTH
from zo_triton._tables import lay_out, number


def blocks(section: Data, show: Show) -> list[str]:
    """Throughput over the batch, then a table an axis."""
    plain = section["throughput"]
    found = [
        "## Cost curves", section["note"],
        f"### Throughput over plain inference: {plain['network']}, K = {plain['directions']}",
        throughput(plain), *show("throughput"),
    ]  # fmt: skip
    for curve in section["growth"]:
        found += [f"### Growth with {curve['axis']} ({curve['fixed']})", growth(curve)]
    return found + show("growth")


def throughput(section: Data) -> str:
    """One row a batch: evaluations over those of plain inference."""
    rows = [
        [row["batch"], f"{row['one_sided']:.2f}×", f"{row['central']:.2f}×", number(row["evaluations_per_s"])]
        for row in section["rows"]
    ]
    return lay_out(["batch", "fused, one-sided", "fused, central", "evaluations a second, central"], rows)


def growth(curve: Data) -> str:
    """One row a contender: milliseconds at each value, and the exponent."""
    rows = [
        [one["label"], *(number(each) for each in one["ms"]), f"{one['exponent']:.2f}"]
        for one in curve["contenders"]
    ]
    return lay_out(["ms a step", *(f"{curve['axis']} {each}" for each in curve["values"]), "exponent"], rows)


def draw_throughput(figure: Any, section: Data) -> None:
    """Both kinds of evaluations over plain inference's, against the batch."""
    figure.set_size_inches(WIDTH, 3.2)
    axes = figure.subplots()
    rows = section["throughput"]["rows"]
    batches = [row["batch"] for row in rows]
    axes.axhline(1.0, color=QUIET, linewidth=1.0, linestyle=(0, (2, 2)))
    ends = [Label("plain inference", (batches[-1], 1.0), QUIET)]
    for dash, name in zip(DASHES, ("central", "one_sided"), strict=False):
        values = [row[name] for row in rows]
        axes.plot(batches, values, color=BLUE, linestyle=dash, marker="o", markersize=4, linewidth=2.2)
        ends.append(Label(f"fused, {name.replace('_', '-')}", (batches[-1], values[-1]), BLUE, bold=True))
    _scale_across(axes, batches)
    axes.set(xlabel="batch", ylabel="evaluations a second\nover plain inference's", ylim=(0, None))
    label_ends(axes, ends, width=10)


def draw_growth(figure: Any, section: Data) -> None:
    """One panel an axis, below each other."""
    curves = section["growth"]
    figure.set_size_inches(WIDTH, 2.7 * len(curves))
    for axes, curve in zip(figure.subplots(len(curves), 1, squeeze=False)[:, 0], curves, strict=True):
        ends = []
        for one, look in zip(curve["contenders"], looks(curve["contenders"]), strict=True):
            axes.plot(curve["values"], one["ms"], marker="o", markersize=4, **look)
            end = curve["values"][-1], one["ms"][-1]
            ends.append(Label(one["label"], end, look["color"], one["family"] == OURS))
        _scale_across(axes, curve["values"])
        axes.set(yscale="log", xlabel=f"{curve['axis']} ({curve['fixed']})", ylabel="ms a step")
        plain_ticks(axes.yaxis)
        label_ends(axes, ends, width=14)


def _scale_across(axes: Any, values: list[int]) -> None:
    """A logarithmic axis with a tick for each value, or for every other one where there are many."""
    axes.set_xscale("log", base=2)
    told = values[:: 1 + len(values) // 7]
    axes.set_xticks(told, [str(value) for value in told])
    axes.set_xticks([], minor=True)


def findings(section: Data) -> Findings:
    """Where an evaluation costs less than a forward pass, and where more."""
    rows = section["throughput"]["rows"]
    best = max(rows, key=lambda row: row["central"])
    above = [row["batch"] for row in rows if row["central"] >= 1]
    listed = f"at or above it at batch {', '.join(map(str, above))}" if above else "below it at every batch"
    sentence = (
        f"**Evaluations beside plain inference**, central, {section['throughput']['network']}: "
        f"{best['central']:.2f}× its throughput at batch {best['batch']}, {listed}."
    )
    slow = [row["batch"] for row in rows if row["central"] < 1]
    return Findings(
        [sentence], [("an evaluation costs more than a forward pass", f"batch {batch}") for batch in slow]
    )


SECTION = Section(
    name="curves",
    place=50,
    timed=True,
    keys=("note", "throughput", "growth"),
    blocks=blocks,
    figures=(
        Figure(
            "throughput",
            "Evaluations a second over plain inference's, against the batch",
            draw_throughput,
        ),
        Figure("growth", "Milliseconds of a step against directions, batch and width", draw_growth),
    ),
    findings=findings,
)
