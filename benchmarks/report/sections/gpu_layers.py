"""What an evaluation of a layer costs on a GPU, beside a plain pass through it."""

from __future__ import annotations

from benchmarks.report.section import Data, Section, Show
from zo_triton._tables import lay_out, number


def blocks(section: Data, show: Show) -> list[str]:
    """Evaluations of a layer against plain passes through it."""
    rows = [
        [row["name"], *(number(row[key], missing="–") for key in ("per_second", "share", "limit"))]
        for row in section["rows"]
    ]
    plain = f"A plain pass takes {number(section['pass_us'], 'µs', 'an unknown time')}."
    return [
        "## The cost of inference", section["note"], plain,
        lay_out(["layer", "a second", "over passes a second", "limit"], rows),
    ]  # fmt: skip


SECTION = Section(name="gpu_layers", place=80, keys=("note", "pass_us", "rows"), blocks=blocks)
