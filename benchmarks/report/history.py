"""A report's headline figures by commit: what earlier reports in the same folder had, and this one's."""

from __future__ import annotations

import json
import re
from math import log
from pathlib import Path
from typing import Any

from benchmarks.report.json_files import load
from benchmarks.report.literal import quoted
from benchmarks.report.load import was_busy
from benchmarks.report.records import Record
from benchmarks.report.registry import parts
from zo_triton._tables import lay_out, number

NAME = "history.json"
LATEST = 12
"""Entries that a report shows; the file keeps all."""

LEVELS = "▁▂▃▄▅▆▇█"
"""Letters of a sparkline."""

Entry = dict[str, Any]


def entry_of(record: Record) -> Entry | None:
    """The record's figures; None if it is a tiny run or one on a busy machine, or has none.

    Returns:
        ``commit``, ``dirty``, ``date``, ``device``, ``threads`` and ``figures``, from a name to a number: the
        headlines of the record's sections.
    """
    figures: dict[str, float] = {}
    for section, _, data in parts(record):
        figures |= section.headline(data)
    if record["tiny"] or was_busy(record["environment"]) or not figures:
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
    """The latest entries as a section's blocks; none if there are fewer than two.

    A race has one line, and by commits one column, whatever data stood in for those that were missing.
    """
    if len(entries) < 2:
        return []
    shown = quoted(entries[-LATEST:])
    columns = [{_plain(name): (name, value) for name, value in each["figures"].items()} for each in shown]
    names = list(dict.fromkeys(name for column in columns for name in column))
    curves = {name: [column[name][1] if name in column else None for column in columns] for name in names}
    trend = [
        [name, sparkline(curve), number(curve[-1], missing="–"), _range(curve)]
        for name, curve in curves.items()
    ]
    rows = [
        [
            f"`{str(entry['commit'])[:9]}`{'+' if entry['dirty'] else ''}", entry["date"][:10], entry["device"],
            *(_cell(column.get(name)) for name in names),
        ]
        for entry, column in zip(shown, columns, strict=True)
    ]  # fmt: skip
    replaced = {text for column in columns for name, _ in column.values() if (text := _stand_in(name))}
    note = [f"\\*: {', '.join(sorted(replaced))}."] if replaced else []
    return [
        "## History",
        "The latest last, the higher the larger. Milliseconds and seconds follow the machine's load from day to "
        "day; the ratios to what ran beside them vary less.",
        lay_out(["figure", "trend", "latest", "range"], trend),
        "#### By commit",
        lay_out(["commit", "date", "device", *names], rows),
        *note,
    ]


def sparkline(values: list[float | None]) -> str:
    """A letter a value, as high as its logarithm among the others; a space where there is none."""
    known = [log(value) for value in values if value]
    low, high = min(known, default=0.0), max(known, default=0.0)
    scale = (len(LEVELS) - 1) / ((high - low) or 1.0)
    return "".join(LEVELS[round((log(value) - low) * scale)] if value else " " for value in values).strip()


def _range(values: list[float | None]) -> str:
    known = [value for value in values if value is not None]
    return " – ".join(dict.fromkeys(map(number, (min(known), max(known)))))


def _plain(name: str) -> str:
    """A figure's name without the data that stood in."""
    return name.replace(_stand_in(name), "").replace("  ", " ")


def _stand_in(name: str) -> str:
    """What a figure was measured on instead; nothing if on what it should be."""
    found = re.search(r"\(on .*?\)", name)
    return found[0] if found else ""


def _cell(found: tuple[str, float] | None) -> str:
    if found is None:
        return "–"
    return number(found[1]) + (r"\*" if _stand_in(found[0]) else "")
