"""What a GPU reaches on plain work."""

from __future__ import annotations

from benchmarks.report.section import Data, Section, Show
from zo_triton._tables import lay_out, number


def blocks(section: Data, show: Show) -> list[str]:
    """One row a kind of work."""
    rows = [[row["name"], number(row["value"], row["unit"], "–")] for row in section["rows"]]
    return ["## Ceilings", section["note"], lay_out(["ceiling", "measured"], rows)]


SECTION = Section(name="gpu_ceilings", place=100, keys=("note", "rows"), blocks=blocks)
