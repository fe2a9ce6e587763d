"""The record of compiled kernels as a table, a Markdown page and a figure of clocks."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tabulate import tabulate

from zo_triton._figures import COLOURS, QUIET, RULE, WIDTH, check_figure, save_figure
from zo_triton._files import write_text
from zo_triton._tables import environment, lay_out
from zo_triton.compilation import roofline
from zo_triton.compilation.run import dumps, failures
from zo_triton.compilation.table import NAMES, cells, headers
from zo_triton.compilation.targets import TARGETS

ROW = 0.42
"""Inches of a kernel's row in the figure: its name, and below it the dots."""


def table(record: Mapping[str, Any]) -> str:
    """All rows for a console."""
    rows = [cells(row) for row in record["rows"]]
    return f"{_title(record)}\n\n{tabulate(rows, headers(), tablefmt='simple', disable_numparse=True)}"


def page(record: Mapping[str, Any]) -> str:
    """All rows in Markdown, a table a chip, with what the columns mean."""
    blocks = [f"# {_title(record)}", (roofline.__doc__ or "").strip()]
    failed = failures(record)
    if failed:
        lines = [f"- {row['variant']} on {row['target']}: {row['error']}" for row in failed]
        blocks.append("**Failing:**\n\n" + "\n".join(lines))
    if any(_drawn(row) for row in record["rows"]):
        blocks.append(f"![Clocks of the tensor cores and of everything else]({NAMES[2]})")
    for name, chip in TARGETS.items():
        rows = [cells(row) for row in record["rows"] if row["target"] == name]
        if rows:
            kept = [column for column in range(len(headers())) if column != 1]
            blocks.append(f"## {name} ({chip.model})")
            blocks.append(lay_out(headers(kept), [[row[column] for column in kept] for row in rows]))
    blocks += ["## Where the numbers come from", environment(record["environment"])]
    return "\n\n".join(blocks) + "\n"


def write_folder(record: Mapping[str, Any], folder: str | os.PathLike[str]) -> Path:
    """Writes compile.json, compile.md and compile.svg, each replaced whole; returns the page's path."""
    target = Path(folder).resolve()
    target.mkdir(parents=True, exist_ok=True)
    write_text(target / NAMES[0], dumps(record))
    write_text(target / NAMES[1], page(record))
    if any(_drawn(row) for row in record["rows"]):
        draw(record, target / NAMES[2])
    return target / NAMES[1]


def draw(record: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Draws the launchers' own configs on every chip, tensor against other clocks, into a png or svg.

    Raises:
        ValueError: The name ends in neither, or no row of the record has a tensor-core instruction.
    """
    target = check_figure(path)
    if not any(_drawn(row) for row in record["rows"]):
        raise ValueError("no compiled kernel has tensor-core instructions, so there is nothing to draw.")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.stem}.") as folder:
        name = save_figure(_dots, dict(record), folder, target.stem, target.suffix[1:])
        os.replace(Path(folder) / name, target)


def _title(record: Mapping[str, Any]) -> str:
    return f"Kernels compiled by Triton {record['environment']['versions']['triton']}"


def _drawn(row: Mapping[str, Any]) -> bool:
    return row["default"] and "roofline" in row and row["roofline"]["other_per_tensor"] is not None


def _dots(figure: Any, record: dict[str, Any]) -> None:
    """A row a kernel with a dot a chip: clocks that issue all else, for each clock of the tensor cores."""
    rows = [row for row in record["rows"] if _drawn(row)]
    chips = [name for name in TARGETS if any(row["target"] == name for row in rows)]
    variants = list(dict.fromkeys(row["variant"] for row in rows))
    figure.set_size_inches(WIDTH, 1.6 + ROW * len(variants))
    axes = figure.subplots()
    for chip, colour, marker in zip(chips, COLOURS, "osD^", strict=False):
        found = [row for row in rows if row["target"] == chip]
        axes.plot(
            [row["roofline"]["other_per_tensor"] for row in found],
            [variants.index(row["variant"]) for row in found], marker, color=colour, markersize=6,
            label=f"{chip} ({TARGETS[chip].model})", zorder=3,
        )  # fmt: skip
    for place, variant in enumerate(variants):
        axes.axhline(place, color=RULE, linewidth=0.8, zorder=1)
        axes.text(0.0, place - 0.42, variant, transform=axes.get_yaxis_transform(), va="center")
    axes.axvline(1.0, color=QUIET, linewidth=1.0, linestyle=(0, (2, 2)))
    axes.set(
        xscale="log", ylim=(len(variants) - 0.4, -0.8), yticks=[],
        xlabel="clocks that issue all else, for each clock of the\ntensor cores (below 1 it hides behind them)",
    )  # fmt: skip
    axes.spines["left"].set_visible(False)
    figure.legend(loc="outside upper left", ncols=2)
