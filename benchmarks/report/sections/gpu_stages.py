"""The stages of a GPU's run, and everything in them that failed or was left out."""

from __future__ import annotations

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
        f"- {one['stage']}, {one['what']}: **{one['status']}**, {_plain(one['message'])}"
        for one in section["incidents"]
    ]
    return [*found, "\n".join(listed)] if listed else found


def _plain(text: str) -> str:
    """A message that no Markdown can be made of."""
    return "`" + text.replace("`", "'") + "`"


SECTION = Section(name="gpu_stages", place=130, keys=("note", "rows", "incidents"), blocks=blocks)
