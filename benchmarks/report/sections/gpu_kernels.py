"""Each kernel's time and rates on a GPU."""

from __future__ import annotations

from benchmarks.report.section import Data, Section, Show
from zo_triton._tables import lay_out, number

MISSING = "–"


def blocks(section: Data, show: Show) -> list[str]:
    """One row a kernel and case."""
    rows = []
    for row in section["rows"]:
        if row["ms"] is None:
            rows.append([row["op"], row["case"], "**not measured**", *[MISSING] * 4])
            continue
        rates = [number(row[name], missing=MISSING) for name in ("tflops", "gvalues", "gbytes")]
        share = row.get("share")
        held = MISSING if share is None else f"{100 * share:.3g} % of {row['ceiling']}"
        if row["trust"] != "passed":
            held = f"**not counted: {row['trust']}**"
        rows.append([row["op"], row["case"], number(row["ms"]), *rates, held])
    headers = ["operation", "case", "ms", "TFLOP/s", "10⁹ values/s", "GB/s", "of ceiling"]
    return ["## Kernels", section["note"], lay_out(headers, rows)]


SECTION = Section(name="gpu_kernels", place=90, keys=("note", "rows"), blocks=blocks)
