"""The section ``gpu`` of a report, in Markdown."""

from __future__ import annotations

from typing import Any

from zo_triton.reporting.tables import lay_out, number


def blocks(section: dict[str, Any], drawn: dict[str, str]) -> list[str]:
    """Correctness, ceilings, kernels and goals; what failed is said first."""
    parts = ["## On the device", section["note"]]
    parts += [f"**A stage failed.** {problem}" for problem in section["problems"]]
    if section["goals"]:
        parts += ["### Goals", _goals(section["goals"])]
    if section["ceilings"]:
        rows = [[row["name"], number(row["value"], row["unit"])] for row in section["ceilings"]]
        parts += ["### Ceilings", lay_out(["what", "measured"], rows)]
    if section["kernels"]:
        parts += ["### Kernels", _kernels(section["kernels"])]
    if section["correctness"]:
        wrong = sum(not row["passed"] for row in section["correctness"])
        count = len(section["correctness"])
        told = f"{wrong} of {count} are **wrong**." if wrong else f"All {count} are right."
        parts += ["### Every op against the reference", told, _correctness(section["correctness"])]
    return parts


def _goals(rows: list[dict[str, Any]]) -> str:
    def verdict(row: dict[str, Any]) -> str:
        if row["measured"] is None:
            return "not measured"
        return "reached" if row["measured"] >= row["goal"] else "**missed**"

    cells = [[row["name"], number(row["goal"]), number(row["measured"]), verdict(row)] for row in rows]
    return lay_out(["what", "goal", "measured", ""], cells)


def _kernels(rows: list[dict[str, Any]]) -> str:
    def share(row: dict[str, Any]) -> str:
        return "–" if row["fraction"] is None else f"{100 * row['fraction']:.0f} % of {row['ceiling']}"

    def value(found: float | None) -> str:
        return "–" if found is None else number(found)

    cells = [
        [row["name"], row["problem"]] + ["–"] * 4 if row["problem"] else
        [row["name"], number(row["ms"]), value(row["tflops"]), value(row["gb_per_second"]),
         value(row["values_per_second"]), share(row)]
        for row in rows
    ]  # fmt: skip
    return lay_out(["kernel", "ms", "TFLOP/s", "GB/s", "10⁹ values/s", "of the ceiling"], cells)


def _correctness(rows: list[dict[str, Any]]) -> str:
    cells = [
        [
            row["name"],
            row["problem"] or f"{row['error']:.2g}",
            f"{row['bound']:g}",
            "yes" if row["passed"] else "**no**",
        ]
        for row in rows
    ]
    return lay_out(["op", "largest error", "allowed", "right"], cells)
