"""Numbers as text, and tables of texts in Markdown."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

try:
    from tabulate import tabulate
except ModuleNotFoundError:  # a machine with a GPU on which nothing can be installed
    tabulate = None

NOT_REACHED = "not reached"


def number(value: float | None, unit: str = "", missing: str = NOT_REACHED) -> str:
    """Three significant digits, never in exponents between 1e-4 and 1e6; ``missing`` stands for None."""
    if value is None:
        return missing
    magnitude = abs(value)
    if magnitude >= 1e6:
        text = f"{value:.1e}"
    elif magnitude >= 100:
        text = f"{value:.0f}"
    elif magnitude >= 1e-4 or value == 0:
        text = f"{value:.3g}"
    else:
        text = f"{value:.1e}"
    return f"{text} {unit}".rstrip()


def environment(facts: dict[str, Any]) -> str:
    """Where the numbers come from."""
    versions = ", ".join(f"{name} {version}" for name, version in sorted(facts["versions"].items()))
    rows = [
        ["commit", f"`{facts['commit']}`" + (" with uncommitted changes" if facts["dirty"] else "")],
        ["device", facts["device"]],
        ["threads", facts["threads"]],
        ["seed", facts["seed"]],
        ["date", facts["date"]],
        ["versions", versions],
    ]
    rows += [[key, facts[key]] for key in sorted(facts) if key not in {row[0] for row in rows} | {"dirty"}]
    return lay_out(["", ""], rows)


def lay_out(headers: list[str], rows: Iterable[list[Any]]) -> str:
    """A Markdown table of cells that are already text."""
    if tabulate is None:
        return _lay_out_plainly(headers, rows)
    # Numbers arrive as text: tabulate must not parse and reformat them.
    return tabulate(rows, headers, tablefmt="github", disable_numparse=True)


def _lay_out_plainly(headers: list[str], rows: Iterable[list[Any]]) -> str:
    """The same bytes without tabulate."""
    texts = [[str(cell).strip() for cell in row] for row in rows]
    # Tabulate leaves two characters of room beside a title.
    widths = [
        max([len(title) + 2, *(len(row[column]) for row in texts)]) for column, title in enumerate(headers)
    ]
    lines = [
        " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        for row in [headers, *texts]
    ]
    rule = "|".join("-" * (width + 2) for width in widths)
    return "\n".join([f"| {lines[0]} |", f"|{rule}|", *(f"| {line} |" for line in lines[1:])])
