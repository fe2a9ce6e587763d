"""How a step's cost grows with directions, batch and width, and what an evaluation costs beside inference."""

from __future__ import annotations

from typing import Any

from benchmarks.report.drawing import look
from benchmarks.report.section import Data, Figure, Findings, Section, Show
from benchmarks.report.statistics import OURS
from zo_triton._figures import PALETTE
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
    figure.set_size_inches(8.2, 3.4)
    axes = figure.subplots()
    rows = section["throughput"]["rows"]
    for position, name in enumerate(("central", "one_sided")):
        axes.plot(
            [row["batch"] for row in rows], [row[name] for row in rows], color=PALETTE[position],
            marker="os"[position], markersize=4.5, linewidth=2.2, label=f"fused, {name.replace('_', '-')}",
        )  # fmt: skip
    axes.axhline(1.0, color="#777777", linewidth=0.8, linestyle=(0, (2, 2)))
    axes.annotate("plain inference", (1.0, 1.0), xycoords=("axes fraction", "data"), xytext=(-80, 4),
                  textcoords="offset points", color="#555555")  # fmt: skip
    axes.set_xscale("log", base=2)
    axes.set(xlabel="batch", ylabel="evaluations a second\nover plain inference's", ylim=(0, None))
    axes.set_xticks([row["batch"] for row in rows], [str(row["batch"]) for row in rows])
    figure.legend(loc="outside upper center", ncols=2)


def draw_growth(figure: Any, section: Data) -> None:
    """One panel an axis."""
    curves = section["growth"]
    figure.set_size_inches(8.2, 3.4)
    for axes, curve in zip(
        figure.subplots(1, len(curves), sharey=True, squeeze=False)[0], curves, strict=True
    ):
        for position, one in enumerate(curve["contenders"]):
            axes.plot(
                curve["values"], one["ms"], color=PALETTE[position], marker="os^D"[position % 4], markersize=4.5,
                label=one["label"] if axes.get_subplotspec().is_first_col() else None,
                **look(one["family"] == OURS, position),
            )  # fmt: skip
        axes.set_xscale("log", base=2)
        axes.set(yscale="log", xlabel=f"{curve['axis']}\n({curve['fixed']})")
        axes.set_xticks(curve["values"], [str(value) for value in curve["values"]])
        if axes.get_subplotspec().is_first_col():
            axes.set_ylabel("milliseconds a step")
    figure.legend(loc="outside upper center", ncols=len(curves[0]["contenders"]))


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
