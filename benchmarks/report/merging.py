"""Results of ``pytest --benchmark`` in a record: what ran replaces what was there, failures lose theirs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from benchmarks.report.records import Record, check_record

KEYS = ("id", "group", "name", "median_ms", "min_ms", "rounds", "extra", "commit", "dirty", "date", "threads")
"""What every entry has; ``extra`` holds the benchmark's own numbers."""


def merge_benchmarks(
    record: Record,
    entries: Sequence[dict[str, Any]],
    failed: Iterable[str] = (),
    complete: bool = False,
    tiny: bool = False,
) -> Record:
    """A new record with these benchmark results.

    Args:
        record: A valid record; it is not changed.
        entries: Fresh results, each with :data:`KEYS`.
        failed: Ids that ran and failed: a benchmark with a red gate keeps no old speed.
        complete: Everything ran, so entries that are not among the fresh ones belong to deleted benchmarks.
        tiny: The results come from a shortened run.

    Raises:
        ValueError: An entry lacks a key, or tiny results would mix with full ones.
    """
    for entry in entries:
        missing = [key for key in KEYS if key not in entry]
        if missing:
            raise ValueError(f"benchmark {entry.get('id')!r} lacks {missing[0]!r}.")
    if record["sections"] and record["tiny"] != tiny:
        kinds = ("full", "tiny")
        raise ValueError(
            f"{kinds[tiny]} benchmarks would mix with a {kinds[record['tiny']]} report; name another folder."
        )
    old = [] if complete else record["sections"].get("benchmarks", {"entries": []})["entries"]
    # Older records name the files one folder higher; their figures go on under today's ids.
    old = [
        {**entry, "id": re.sub(r"^benchmarks/bench_", "benchmarks/ops/bench_", entry["id"])} for entry in old
    ]
    gone = {entry["id"] for entry in entries} | set(failed)
    kept = [entry for entry in old if entry["id"] not in gone]
    merged = sorted([*kept, *entries], key=lambda entry: entry["id"])
    fresh = {**record, "tiny": tiny, "sections": {**record["sections"], "benchmarks": {"entries": merged}}}
    check_record(fresh, "the record with benchmarks")
    return fresh
