"""The record of compiled kernels as a table, a Markdown page and a figure of clocks."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tabulate import tabulate

from zo_triton._figures import FAMILIES, save_figure
from zo_triton._files import write_text
from zo_triton._tables import environment, lay_out
from zo_triton.compilation import roofline
from zo_triton.compilation.run import dumps, failures
from zo_triton.compilation.table import NAMES, cells, headers
from zo_triton.compilation.targets import TARGETS

FURTHEST = 8.0
"""Where the axis of the figure ends; a longer bar is cut and its number says so."""


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
    """Writes compile.json, compile.md and compile.png, each replaced whole; returns the page's path."""
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
        name = save_figure(_bars, dict(record), folder, target.stem, target.suffix[1:])
        os.replace(Path(folder) / name, target)


def check_figure(path: str | os.PathLike[str]) -> Path:
    """The figure's resolved path.

    Raises:
        ValueError: Its name ends in neither .png nor .svg.
    """
    target = Path(path).resolve()
    if target.suffix not in (".png", ".svg"):
        raise ValueError(f"a figure is a .png or a .svg, got {str(path)!r}.")
    return target


def _title(record: Mapping[str, Any]) -> str:
    return f"Kernels compiled by Triton {record['environment']['versions']['triton']}"


def _drawn(row: Mapping[str, Any]) -> bool:
    return row["default"] and "roofline" in row and row["roofline"]["other_per_tensor"] is not None


def _bars(figure: Any, record: dict[str, Any]) -> None:
    """One panel a chip, in clocks for each clock of the tensor cores, so that small and large tiles compare."""
    rows = [row for row in record["rows"] if _drawn(row)]
    chips = [name for name in TARGETS if any(row["target"] == name for row in rows)]
    variants = list(dict.fromkeys(row["variant"] for row in rows))
    figure.set_size_inches(4.6 + 2.4 * len(chips), 1.3 + 0.3 * len(variants))
    panels = figure.subplots(1, len(chips), sharey=True, squeeze=False)[0]
    for axes, chip in zip(panels, chips, strict=True):
        found = {row["variant"]: row["roofline"] for row in rows if row["target"] == chip}
        for place, variant in enumerate(variants):
            if variant in found:
                _pair(axes, place, found[variant])
        axes.axvline(1.0, color="black", linewidth=0.8, linestyle=":")
        axes.set_xlim(0, FURTHEST * 1.3)
        axes.set_xticks(range(0, int(FURTHEST) + 1, 2))
        axes.set_title(f"{chip} ({TARGETS[chip].model})")
        axes.grid(axis="y", visible=False)
    panels[0].set_yticks(range(len(variants)), variants)
    panels[0].set_ylim(len(variants) - 0.4, -0.6)
    figure.legend(
        [_patch("fused"), _patch("zeroth")],
        ["tensor cores", "issuing everything else"],
        loc="outside upper center",
        ncols=2,
    )
    figure.supxlabel(
        "clocks of the inner loop, tensor cores = 1 (numbers: other / tensor clocks)", fontsize=9
    )


def _pair(axes: Any, place: int, lines: dict[str, Any]) -> None:
    ratio = lines["other_per_tensor"]
    axes.barh(place - 0.19, 1.0, height=0.36, color=FAMILIES["fused"])
    axes.barh(place + 0.19, min(ratio, FURTHEST), height=0.36, color=FAMILIES["zeroth"])
    cut = " →" if ratio > FURTHEST else ""
    text = f"{lines['issue']:.0f} / {lines['tensor']:.0f}{cut}"
    axes.text(max(1.0, min(ratio, FURTHEST)) + 0.1, place, text, va="center", fontsize=6.5)


def _patch(kind: str) -> Any:
    from matplotlib.patches import Patch

    return Patch(color=FAMILIES[kind])
