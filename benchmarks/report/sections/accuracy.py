"""How exact a loss difference is at small ε."""

from __future__ import annotations

from typing import Any

from benchmarks.report.colours import DASHES
from benchmarks.report.labels import Label, label_ends
from benchmarks.report.section import Data, Figure, Findings, Loss, Section, Show
from benchmarks.report.words import error
from zo_triton._figures import BLUE, QUIET, WIDTH
from zo_triton._tables import lay_out


def blocks(section: Data, show: Show) -> list[str]:
    """One table over ε."""
    intro = (
        f"Median over {section['directions']} directions of |Δ − Δ₆₄|/|Δ₆₄| with Δ₆₄ the float64 "
        f"difference along the same direction; network {section['model']}, batch {section['batch']}, "
        "cross-entropy. *Propagated* carries differences from layer to layer; *direct* subtracts two losses."
    )
    return ["## Accuracy of a loss difference", intro, table(section), *show("accuracy")]


def table(section: Data) -> str:
    """One row an ε, one column a method."""
    names = list(section["rows"][0]["errors"])
    rows = [[f"{row['eps']:.0e}", *(error(row["errors"][name]) for name in names)] for row in section["rows"]]
    return lay_out(["ε", *names], rows)


def draw(figure: Any, section: Data) -> None:
    """A curve a method, ε falling to the right."""
    figure.set_size_inches(WIDTH, 3.6)
    axes = figure.subplots()
    rows = section["rows"]
    ends = []
    for name in rows[0]["errors"]:
        points = [(row["eps"], row["errors"][name]) for row in rows if row["errors"][name]]
        ours = name.startswith("propagated")
        colour = BLUE if ours else QUIET
        axes.plot(
            *zip(*points, strict=True), color=colour, marker="o", markersize=4,
            linestyle="-" if name.endswith("float32") else DASHES[1], linewidth=2.2 if ours else 1.5,
        )  # fmt: skip
        ends.append(Label(name, points[-1], colour, ours))
    axes.set(xscale="log", yscale="log", xlabel="ε", ylabel="median relative error")
    axes.invert_xaxis()
    label_ends(axes, ends, width=10)


def findings(section: Data) -> Findings:
    """Every method's error at the smallest ε."""
    lost: list[Loss] = []
    for row in section["rows"]:
        for name, value in row["errors"].items():
            direct = row["errors"].get(name.replace("propagated", "direct"))
            if name.startswith("propagated") and None not in (value, direct) and direct < value:
                lost.append(
                    (f"{name} differences are less accurate than direct ones", f"ε = {row['eps']:.0e}")
                )
    finest = min(section["rows"], key=lambda row: row["eps"])
    listed = ", ".join(
        f"{name} {100 * value:.2g} %" for name, value in finest["errors"].items() if value is not None
    )
    return Findings(
        [
            f"**Accuracy of a loss difference** at ε = {finest['eps']:.0e}, median relative error: "
            f"{listed or 'not known'}."
        ],
        lost,
    )


SECTION = Section(
    name="accuracy",
    place=60,
    keys=("model", "batch", "directions", "rows"),
    blocks=blocks,
    figures=(Figure("accuracy", "Error of a loss difference against ε", draw),),
    findings=findings,
)
