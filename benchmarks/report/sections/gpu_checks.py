"""Each operation's error on a GPU, against float64."""

from __future__ import annotations

from benchmarks.report.section import Data, Findings, Section, Show
from benchmarks.report.words import error
from zo_triton._tables import lay_out


def blocks(section: Data, show: Show) -> list[str]:
    """Each operation's error beside what is allowed."""
    rows = [
        [row["op"], row["case"], _error(row["error"]), _error(row["allowed"]), _status(row["status"])]
        for row in section["rows"]
    ]
    return [
        "## Checks against float64", section["note"],
        lay_out(["operation", "case", "error", "allowed", ""], rows),
    ]  # fmt: skip


def findings(section: Data) -> Findings:
    """How many passed, and what is wrong: no speed is worth reading of that."""
    counts = dict.fromkeys(("passed", "failed", "left out"), 0)
    for row in section["rows"]:
        counts[row["status"]] += 1
    wrong = [f"{row['op']} ({row['case']})" for row in section["rows"] if row["status"] == "failed"]
    tail = f" **Wrong: {', '.join(wrong)}.**" if wrong else ""
    listed = ", ".join(f"{count} {status}" for status, count in counts.items())
    return Findings([f"**Checks against float64**: {listed}.{tail}"])


def _error(value: float | None) -> str:
    """Integers and copies agree exactly: their error is 0."""
    return "0" if value == 0 else error(value)


def _status(status: str) -> str:
    return status if status == "passed" else f"**{status}**"


SECTION = Section(
    name="gpu_checks", place=110, keys=("note", "seed", "rows"), blocks=blocks, findings=findings
)
