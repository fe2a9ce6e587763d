"""The gate: what was measured comes from kernels that take the steps which theory says."""

from __future__ import annotations

from benchmarks.report.section import Data, Findings, Section, Show
from benchmarks.report.words import error
from zo_triton._tables import lay_out


def blocks(section: Data, show: Show) -> list[str]:
    """One table of all walks."""
    return ["## The gate: kernels against theory", section["note"], table(section)]


def table(section: Data) -> str:
    """One row a walk."""
    rows = [
        [row["kernel"], row["directions"], row["steps"], error(row["worst"]), error(row["allowed"])]
        for row in section["rows"]
    ]
    return lay_out(["kernel", "K", "steps", "largest relative error", "allowed"], rows)


def findings(section: Data) -> Findings:
    """The walk that came closest to what is allowed."""
    walks = [row for row in section["rows"] if row["worst"] is not None]
    if not walks:
        return Findings()
    closest = max(walks, key=lambda row: row["worst"] / row["allowed"])
    return Findings(
        [
            f"**Kernels against theory**: over {len(walks)} walks the largest relative error is "
            f"{error(closest['worst'])} where {error(closest['allowed'])} is allowed."
        ]
    )


SECTION = Section(name="gate", place=120, keys=("note", "rows"), blocks=blocks, findings=findings)
