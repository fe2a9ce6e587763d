"""The end of a long command: what was found, how long it took, where it is."""

from __future__ import annotations

from pathlib import Path

from benchmarks.commands.showing import show
from benchmarks.report import Record, findings
from zo_triton._progress import spell


def tell_end(record: Record, page: Path, seconds: float) -> None:
    """Prints what a report's first lines say was found, unless its numbers mean nothing, then time and place.

    Args:
        record: As published.
        page: Its Markdown; the HTML lies beside it.
        seconds: That the measuring took.
    """
    if record["tiny"]:
        show("A tiny run: everything works, and the numbers mean nothing.")
    else:
        for block in findings(record):
            show(block.replace("**", ""))
    print(f"wrote {page} and {page.with_suffix('.html').name} after {spell(seconds)}")
