"""What ``zo-triton compile`` found, as tables; and its short form in a report whose folder holds the record.

Nothing is compiled here: a record is read, checked and laid out.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from zo_triton.reporting.json_files import load
from zo_triton.reporting.tables import lay_out, number

FORMAT, SCHEMA = "zo_triton compile", 1
RECORD_NAME = "compile.json"
NAMES = (RECORD_NAME, "compile.md", "compile.png")
"""Files that ``zo-triton compile --out`` writes, which a report keeps."""

TARGET = "sm_90"
HEADERS = [
    "variant", "chip", "config", "registers", "spills", "stack", "shared", "warps (limit)", "matrix instructions",
    "int / float / special a value", "tensor clocks", "other / tensor", "busiest", "of peak",
]  # fmt: skip


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


def headers(keep: Iterable[int] | None = None) -> list[str]:
    """The table's column titles, or those of some columns."""
    return [HEADERS[column] for column in keep] if keep is not None else list(HEADERS)


def cells(row: Mapping[str, Any]) -> list[str]:
    """A row's texts, one a column; a row without figures says only that it failed."""
    config = tiles(row["config"]) + ("" if row["default"] else " (candidate)")
    if "registers" not in row:
        return [f"{row['variant']}: FAILED", row["target"], config, *["–"] * (len(HEADERS) - 3)]
    lines, held = row["roofline"], row["occupancy"]
    each = lines["per_value"]
    peak = "–" if lines["overlapped"] is None else f"{lines['serial']:.2f}–{lines['overlapped']:.2f}"
    return [
        row["variant"] + (": DOES NOT FIT" if row["error"] else ""),
        row["target"],
        config,
        str(row["registers"]),
        str(row["spills"]),
        str(row["stack"]),
        f"{row['shared'] / 1024:.0f} KiB",
        f"{held['warps']} ({held['limit']})",
        ", ".join(f"{count} {name}" for name, count in row["matrix"].items()) or "none",
        " / ".join(number(each[kind]) for kind in ("integer", "float", "special")) if each else "–",
        number(lines["tensor"]) if lines["tensor"] else "–",
        f"{lines['other_per_tensor']:.2f}" if lines["other_per_tensor"] is not None else "–",
        lines["bound"],
        peak,
    ]


def tiles(config: Mapping[str, int]) -> str:
    """A config in short: ``128×128×64 w8 s3``."""
    sizes = "×".join(str(size) for name, size in config.items() if not name.startswith("num_"))
    warps, stages = config.get("num_warps"), config.get("num_stages")
    parts = [sizes, f"w{warps}" if warps else "", f"s{stages}" if stages else ""]
    return " ".join(part for part in parts if part) or "launcher's"


def append(text: str, old: Path, fresh: Path) -> str:
    """Carries a compile record from a report's old folder to its new one and adds its section to the text.

    Args:
        text: The report's.
        old: The folder that is about to be replaced; it need not exist.
        fresh: The folder that takes its place.

    Raises:
        ValueError: The record is truncated, foreign, or of another schema.
    """
    if not (old / RECORD_NAME).is_file():
        return text
    record = read(old / RECORD_NAME)
    for name in NAMES:
        if (old / name).is_file():
            shutil.copyfile(old / name, fresh / name)
    return text + "\n" + section(record)


def section(record: Mapping[str, Any]) -> str:
    """The launchers' own configs on one chip, in Markdown."""
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
    return "\n\n".join(part for part in ("## Compiled kernels", intro, note, table) if part) + "\n"
