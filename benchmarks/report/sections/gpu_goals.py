"""A GPU's goals, set before anything was measured, beside what it reached."""

from __future__ import annotations

from benchmarks.report.section import Data, Findings, Section, Show
from zo_triton._tables import lay_out, number


def blocks(section: Data, show: Show) -> list[str]:
    """Each goal beside what was measured."""
    rows = [
        [
            row["label"],
            f"{'≥' if row['at_least'] else '≤'} {row['goal']:g}",
            number(row["measured"], missing="–"),
            row["verdict"] if row["verdict"] == "met" else f"**{row['verdict']}**",
        ]
        for row in section["rows"]
    ]
    return ["## Goals", section["note"], lay_out(["figure", "goal", "measured", ""], rows)]


def findings(section: Data) -> Findings:
    """Every goal, and those that were missed."""
    told = []
    for row in section["rows"]:
        reached = "" if row["measured"] is None else f", measured {row['measured']:g}"
        told.append(f"{row['label']}: goal {row['goal']:g}{reached}: {row['verdict']}")
    missed = [row["label"] for row in section["rows"] if row["verdict"] == "missed"]
    met = sum(row["verdict"] == "met" for row in section["rows"])
    return Findings(
        [f"**{met} of {len(told)} goals met.** {'; '.join(told)}."],
        [("goals missed", label) for label in missed],
    )


SECTION = Section(
    name="gpu_goals", place=10, keys=("note", "rows"), blocks=blocks, findings=findings, timed=True
)
