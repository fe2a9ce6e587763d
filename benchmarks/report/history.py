"""A report's headline figures by commit: what earlier reports in the same folder had, and this one's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.report.json_files import load
from benchmarks.report.records import Record
from benchmarks.report.registry import parts
from zo_triton._tables import lay_out, number

NAME = "history.json"
LATEST = 12
"""Entries that a report shows; the file keeps all."""

Entry = dict[str, Any]


def entry_of(record: Record) -> Entry | None:
    """The record's figures; None if it is a tiny run, or has none.

    Returns:
        ``commit``, ``dirty``, ``date``, ``device``, ``threads`` and ``figures``, from a name to a number: the
        headlines of the record's sections.
    """
    figures: dict[str, float] = {}
    for section, _, data in parts(record):
        figures |= section.headline(data)
    if record["tiny"] or not figures:
        return None
    facts = record["environment"]
    known = {key: facts[key] for key in ("commit", "dirty", "date", "device", "threads")}
    return {**known, "figures": {name: float(f"{value:.4g}") for name, value in figures.items()}}


def extended(record: Record, folder: Path) -> list[Entry]:
    """The folder's history with this record's entry, which replaces one of the same commit and device.

    Raises:
        ValueError: The folder's history is not one.
    """
    file = folder / NAME
    entries: list[Entry] = []
    if file.exists():
        try:
            entries = load(file, "delete it to begin another")
            # Laid out once for the proof: twice each, as there is nothing to show of a single one.
            render([entry for entry in entries for _ in range(2)])
            [entry["commit"] for entry in entries]
        # What is damaged raises almost anything.
        except Exception as error:
            raise ValueError(
                f"{file} is no history of reports ({error!r}); delete it to begin another."
            ) from error
    latest = entry_of(record)
    if latest is None:
        return entries
    same = (latest["commit"], latest["device"])
    return [*(entry for entry in entries if (entry["commit"], entry["device"]) != same), latest]


def dumps(entries: list[Entry]) -> str:
    """The file's text."""
    return json.dumps(entries, indent=1, ensure_ascii=False) + "\n"


def render(entries: list[Entry]) -> list[str]:
    """The latest entries as a section's blocks; none if there are fewer than two."""
    if len(entries) < 2:
        return []
    shown = entries[-LATEST:]
    names = list(dict.fromkeys(name for entry in shown for name in entry["figures"]))
    rows = [
        [
            f"`{str(entry['commit'])[:9]}`{'+' if entry['dirty'] else ''}", entry["date"][:10], entry["device"],
            *(number(entry["figures"].get(name), missing="–") for name in names),
        ]
        for entry in shown
    ]  # fmt: skip
    return [
        "## History",
        "By commit, the latest last. Milliseconds and seconds follow the machine's load from day to day; the "
        "ratios to what ran beside them vary less.",
        lay_out(["commit", "date", "device", *names], rows),
    ]
