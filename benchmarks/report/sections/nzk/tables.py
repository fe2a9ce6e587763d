"""The tables of an NZK experiment: predicted against measured, and the methods side by side."""

from __future__ import annotations

from benchmarks.report.section import Data
from zo_triton._tables import lay_out, number

KERNELS = {"nzk": "NZK", "update": "update kernel"}
CURVES = {
    "first": "first order",
    "independent": "ZO, independent vectors",
    "shared": "ZO, one shared vector",
    "fused": "the same by the fused kernels",
}
"""How the curves of a case are called, in the order of tables and legends."""


def factors(case: Data) -> str:
    """One row a kernel: the predicted multiple of the NTK, the measured one, and their distance."""
    rows = [
        [
            KERNELS[row["kernel"]],
            row["coupling"] if row["kernel"] == "nzk" else "–",
            str(row["directions"]),
            digits(row["predicted"]),
            f"{digits(row['measured'])} ± {number(row['standard_error'])}",
            _signed(row["z"]),
        ]
        for row in case["factors"]
    ]
    return lay_out(["kernel", "vectors", "K", "predicted factor", "measured factor", "z"], rows)


def acceleration(cases: list[Data]) -> str:
    """One row a case: shared against independent vectors at equal η."""
    rows = []
    for case in cases:
        found = case["acceleration"]
        walks = {row["method"]: row for row in case["ensembles"]}
        off = 100 * (found["ratio"] / found["ratio_predicted"] - 1)
        rows.append(
            [
                case["name"],
                digits(found["shared_predicted"]),
                f"{digits(found['shared'])} ± {number(found['shared_error'])}",
                digits(found["independent_predicted"]),
                f"{digits(found['independent'])} ± {number(found['independent_error'])}",
                digits(found["ratio_predicted"]),
                f"**{digits(found['ratio'])}** ± {number(found['ratio_error'])}",
                f"{off:+.2f} %",
                *(
                    f"{digits(walks[name]['ratio'])} ± {number(walks[name]['ratio_error'])}"
                    for name in ("shared", "independent")
                ),
            ]
        )
    return lay_out(
        [
            "case", "shared, (d−1+κ)σ⁴", "measured", "independent, σ⁴", "measured",
            "acceleration", "measured", "off",
            "shared, from the runs", "independent, from the runs",
        ],
        rows,
    )  # fmt: skip


def rates(case: Data, lr: float) -> str:
    """One row a method: its stable limit, and what the closed form says at equal η and at its own best η."""
    rows = []
    for row in case["rates"]:
        cells = [row["label"], digits(row["factor"]), number(row["limit"])]
        for name in ("equal", "best"):
            found = row[name]
            if name == "best":
                cells.append(number(found["lr"]))
            cells += [
                _step(found["half"]),
                _step(found["tenth"]),
                number(found["final"], missing="grows without bound"),
            ]
        rows.append(cells)
    return lay_out(
        [
            "method", "factor", "stable below η",
            f"η = {lr:g}: steps to half", "to a tenth", "mean loss at the end",
            "best η", "steps to half", "to a tenth", "mean loss at the end",
        ],
        rows,
    )  # fmt: skip


def losses(case: Data) -> str:
    """One row a snapshot step: the loss of every curve, and of both closed forms."""
    predicted = {row["method"]: row for row in case["ensembles"]}
    names = [name for name in CURVES if name in case["curves"]]
    headers = ["step"]
    for name in names:
        headers.append(CURVES[name])
        if name in predicted:
            headers.append("predicted mean")
    rows = []
    for step in case["snapshots"]["steps"]:
        place = case["steps"].index(step)
        cells = [str(step)]
        for name in names:
            cells.append(number(case["curves"][name][place], missing="diverged"))
            if name in predicted:
                cells.append(number(predicted[name]["predicted_mean"][place], missing="infinite"))
        rows.append(cells)
    return lay_out(headers, rows)


def digits(value: float) -> str:
    """Four significant digits: enough to see a difference of a thousandth."""
    return f"{value:.4g}" if abs(value) < 1e4 else f"{value:.0f}"


def _signed(value: float | None) -> str:
    return "–" if value is None else f"{value:+.2f}"


def _step(value: int | None) -> str:
    return "not reached" if value is None else str(value)
