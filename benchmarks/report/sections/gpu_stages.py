"""The stages of a GPU's run, and everything in them that failed or was left out."""

from __future__ import annotations

from benchmarks.report.literal import code
from benchmarks.report.section import Data, Section, Show
from zo_triton._tables import lay_out, number


def blocks(section: Data, show: Show) -> list[str]:
    """Each stage, then every incident."""
    rows = [
        [row["name"], row["status"], number(row["seconds"], missing="–"), number(row["budget"])]
        for row in section["rows"]
    ]
    found = ["## Stages", section["note"], lay_out(["stage", "", "seconds", "at most"], rows)]
    listed = [
        f"- {one['stage']}, {one['what']}: **{one['status']}**, {code(one['message'])}"
        for one in section["incidents"]
    ]
    return [*found, "\n".join(listed)] if listed else found


SECTION = Section(name="gpu_stages", place=130, keys=("note", "rows", "incidents"), blocks=blocks)
