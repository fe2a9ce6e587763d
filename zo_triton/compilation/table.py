"""The table of compiled kernels: its columns, a row's texts, and the names of the files that hold it.

Nothing is compiled here: a record is laid out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from zo_triton._tables import number

FORMAT, SCHEMA = "zo_triton compile", 1
RECORD_NAME = "compile.json"
NAMES = (RECORD_NAME, "compile.md", "compile.svg")
"""Files that ``zo-triton compile --out`` writes, which a report keeps."""

HEADERS = [
    "variant", "chip", "config", "registers", "spills", "stack", "shared", "warps (limit)", "matrix instructions",
    "int / float / special a value", "tensor clocks", "other / tensor", "busiest", "of peak", "waits",
]  # fmt: skip  # fmt: skip


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
        "–" if row.get("drains") is None else str(row["drains"]),
    ]


def tiles(config: Mapping[str, int]) -> str:
    """A config in short: ``128×128×64 w8 s3``."""
    sizes = "×".join(str(size) for name, size in config.items() if not name.startswith("num_"))
    warps, stages = config.get("num_warps"), config.get("num_stages")
    parts = [sizes, f"w{warps}" if warps else "", f"s{stages}" if stages else ""]
    return " ".join(part for part in parts if part) or "launcher's"
