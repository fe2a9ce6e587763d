"""What ``zo-triton compile`` found, in short, in a report whose folder holds the record.

Nothing is compiled here: a record is read, checked and laid out.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.report.json_files import load
from benchmarks.report.literal import quoted
from zo_triton._tables import lay_out
from zo_triton.compilation.table import FORMAT, NAMES, RECORD_NAME, SCHEMA, cells, headers

TARGET = "sm_90"


def read(path: Path) -> dict[str, Any]:
    """Reads and checks a record.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is truncated, foreign, or of another schema; the message names it.
    """
    record = load(path, "delete it or run `zo-triton compile --out` again")
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise ValueError(f"{path} is not a {FORMAT} record; delete it.")
    if record.get("schema") != SCHEMA:
        raise ValueError(
            f"{path} has schema {record.get('schema')!r}, not {SCHEMA}; run `zo-triton compile --out` again."
        )
    return record


def carry(old: Path, fresh: Path) -> list[str]:
    """Carries a compile record from a report's old folder to its new one.

    Args:
        old: The folder that is about to be replaced; it need not exist.
        fresh: The folder that takes its place.

    Returns:
        The record's blocks; none if there is no record.

    Raises:
        ValueError: The record is truncated, foreign, or of another schema.
    """
    if not (old / RECORD_NAME).is_file():
        return []
    record = read(old / RECORD_NAME)
    for name in NAMES:
        if (old / name).is_file():
            shutil.copyfile(old / name, fresh / name)
    return section(record)


def section(record: Mapping[str, Any]) -> list[str]:
    """The launchers' own configs on one chip, in Markdown."""
    record = quoted(record)
    rows = [row for row in record["rows"] if row["target"] == TARGET and row["default"]]
    failed = [row for row in record["rows"] if row["error"] and row["default"]]
    versions, commit = record["environment"]["versions"], record["environment"]["commit"]
    keep = [0, 2, 3, 4, 5, 6, 8, 11, 12, 13]
    table = lay_out(headers(keep), [[cells(row)[column] for column in keep] for row in rows])
    intro = (
        f"Compiled for {TARGET} by Triton {versions['triton']} (commit `{commit[:12]}`), read from the machine "
        "code and weighed against published rates: nothing here was measured. *Other / tensor* is the clocks in "
        "which the schedulers issue everything but tensor-core instructions, for each clock of the tensor cores in "
        "the inner loop; *of peak* runs from nothing overlapped to everything. `zo-triton compile` has all chips "
        "and configs."
    )
    note = f"{len(failed)} of the launchers' own configs on all chips fail." if failed else ""
    return [block for block in ("## Compiled kernels", intro, note, "#### By kernel", table) if block]
