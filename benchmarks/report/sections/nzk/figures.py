"""The figures of an NZK experiment, drawn from its record alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.report.section import Data
from benchmarks.report.sections.nzk.tables import CURVES, digits

COLOURS = {
    "first": "#000000",
    "independent": "#E69F00",
    "shared": "#0072B2",
    "fused": "#D55E00",
    "real": "#D55E00",
    "predicted": "#0072B2",
}
HEADROOM = 4.0
"""How far above the first loss a curve is shown; a mean that grows without bound leaves through the top."""

BEYOND = 1e3
"""Multiple of the first loss at which a curve is cut: far above every panel, far below overflow."""

Points = Sequence[float | None]


def draw_losses(figure: Any, section: Data) -> None:
    """Every case's loss curves with their closed forms."""
    cases = section["cases"]
    columns = min(2, len(cases))
    rows = -(-len(cases) // columns)
    figure.set_size_inches(8.2, 1.0 + (4.2 if columns == 1 else 3.3) * rows)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, case in zip(panels, cases, strict=False):
        _loss_panel(axes, case)
        ratio = case["acceleration"]
        if columns == 1:
            axes.set_title(
                f"One shared vector walks {digits(ratio['ratio'])} times as far a step as independent ones "
                f"(predicted {digits(ratio['ratio_predicted'])})",
                loc="left",
                fontsize=9.5,
            )
        else:
            measured, predicted = digits(ratio["ratio"]), digits(ratio["ratio_predicted"])
            axes.set_title(
                f"{case['name']}: shared {measured}× (predicted {predicted}×)", loc="left", fontsize=9.5
            )
    for axes in panels[len(cases) :]:
        axes.set_visible(False)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3)


def _loss_panel(axes: Any, case: Data) -> None:
    steps = case["steps"]
    first = case["curves"]["first"][0]
    for row in case["ensembles"]:
        name, colour = row["method"], COLOURS[row["method"]]
        axes.fill_between(
            *_pair(steps, row["low"], row["high"], first), color=colour, alpha=0.15, linewidth=0
        )
        axes.plot(
            *_points(steps, _cut(row["predicted_mean"], first)),
            color=colour,
            linestyle=(0, (5, 2)),
            linewidth=1.1,
        )
        axes.plot(
            *_points(steps, _cut(row["predicted_path"], first)),
            color=colour,
            linestyle=(0, (1, 1.5)),
            linewidth=1.1,
        )
    for name, label in CURVES.items():
        if name == "fused" or name not in case["curves"]:
            continue
        axes.plot(
            *_points(steps, _cut(case["curves"][name], first)),
            color=COLOURS[name],
            linewidth=1.7,
            label=label,
            zorder=3,
        )
    if "fused" in case["curves"]:
        across, losses = _points(steps, _cut(case["curves"]["fused"], first))
        axes.plot(
            across[::8], losses[::8], "o", color=COLOURS["fused"], markersize=4.5, markerfacecolor="none",
            label=CURVES["fused"], zorder=4,
        )  # fmt: skip
    axes.plot([], [], color="#666666", linestyle=(0, (5, 2)), linewidth=1.1, label="predicted mean loss")
    axes.plot(
        [], [], color="#666666", linestyle=(0, (1, 1.5)), linewidth=1.1, label="loss of the mean outputs"
    )
    shown = [
        loss
        for name in CURVES
        for loss in case["curves"].get(name, ())
        if loss is not None and 0 < loss < HEADROOM * first
    ]
    axes.set(xscale="log", yscale="log", xlabel="step", ylabel="loss (1/2n)|f − y|²")
    axes.set_xlim(1, steps[-1])
    lowest, highest = min(shown), max(shown)
    margin = (highest / lowest) ** 0.06
    axes.set_ylim(lowest / margin, highest * margin)


def draw_kernels(figure: Any, section: Data) -> None:
    """Expected kernel, empirical kernel and their difference, one row a kernel."""
    cases = section["cases"]
    chosen = [
        (case, picture)
        for case in cases
        for picture in case["kernels"]
        if len(cases) <= 2 or picture["coupling"] == "shared"
    ]
    figure.set_size_inches(8.2, 2.65 * len(chosen) + 0.3)
    panels = figure.subplots(len(chosen), 3, squeeze=False)
    for row, (case, picture) in zip(panels, chosen, strict=True):
        expected, empirical = picture["expected"], picture["empirical"]
        gap = [
            [left - right for left, right in zip(one, other, strict=True)]
            for one, other in zip(empirical, expected, strict=True)
        ]
        flat = [value for matrix in (expected, empirical) for line in matrix for value in line]
        largest = max(abs(value) for line in gap for value in line) or 1.0
        look: dict[str, Any] = {"interpolation": "none", "rasterized": True}
        low, high = min(flat), max(flat)
        prefix = f"{case['name']}, " if len(cases) > 1 else ""
        titles = (
            f"{prefix}{picture['coupling']}: {digits(picture['factor'])}·NTK",
            "empirical",
            "difference: {:.2g} % (error {:.2g} %)".format(
                *(100 * picture[f"relative_{kind}"] for kind in ("difference", "error"))
            ),
        )
        for axes, title, matrix in zip(row, titles, (expected, empirical, gap), strict=True):
            limits = {"vmin": -largest, "vmax": largest} if matrix is gap else {"vmin": low, "vmax": high}
            colours = "RdBu_r" if matrix is gap else "viridis"
            image = axes.imshow(matrix, cmap=colours, **limits, **look)
            axes.set_title(title, loc="left", fontsize=8.5)
            axes.set(xticks=[], yticks=[])
            axes.grid(visible=False)
            for side in axes.spines.values():
                side.set_visible(False)
            if matrix is not expected:
                figure.colorbar(image, ax=axes, shrink=0.85)
        blocks = f", in blocks of {picture['block']}" if picture["block"] > 1 else ""
        row[0].set_ylabel(f"by {picture['order'].split(',')[0].split('[')[0].strip()}{blocks}", fontsize=7.5)


def draw_snapshots(figure: Any, section: Data) -> None:
    """Outputs at chosen steps, one row a case."""
    cases = section["cases"]
    steps = cases[0]["snapshots"]["steps"]
    figure.set_size_inches(8.2, 0.8 + 2.2 * len(cases))
    panels = figure.subplots(len(cases), len(steps), squeeze=False, sharey="row", sharex="row")
    for row, case in zip(panels, cases, strict=True):
        snapshot = case["snapshots"]
        across = snapshot["across"]
        targets = snapshot["targets"]
        low, high = min(targets), max(targets)
        margin = 0.25 * (high - low)
        for place, (axes, step) in enumerate(zip(row, snapshot["steps"], strict=True)):
            axes.plot(across, targets, ".", color="#999999", markersize=3, label="targets")
            for name in ("first", "independent", "shared"):
                axes.plot(
                    *_points(across, snapshot["functions"][name][place], positive=False),
                    color=COLOURS[name], linewidth=1.3, label=CURVES[name],
                )  # fmt: skip
            axes.set_title(f"step {step}", loc="left", fontsize=9)
            starts = [value for value in snapshot["functions"]["first"][0] if value is not None]
            axes.set_ylim(min(low - margin, *starts), max(high + margin, *starts))
        row[0].set_ylabel(f"{case['name']}\noutput" if len(cases) > 1 else "output")
        figure.align_ylabels(panels[:, 0])
        row[len(row) // 2 - 1].set_xlabel(snapshot["label"], loc="left" if len(row) > 1 else "center")
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=4)


def draw_network(figure: Any, section: Data) -> None:
    """The real network above, its deviation from the prediction below."""
    runs = section["network"]["runs"]
    figure.set_size_inches(8.2, 5.6)
    panels = figure.subplots(2, len(runs), squeeze=False, sharex="col", height_ratios=(1.5, 1))
    for column, run in enumerate(runs):
        upper, lower = panels[0][column], panels[1][column]
        steps, first = run["steps"], run["losses"][0]
        upper.fill_between(
            *_pair(steps, run["low"], run["high"], first), color=COLOURS["predicted"], alpha=0.18, linewidth=0,
            label=f"10 to 90 % of {run['linear_runs']} linearised runs",
        )  # fmt: skip
        upper.plot(
            *_points(steps, run["predicted"]), color=COLOURS["predicted"], linestyle=(0, (5, 2)), linewidth=1.6,
            label="predicted for the linearised network",
        )  # fmt: skip
        upper.plot(*_points(steps, run["losses"]), color=COLOURS["real"], linewidth=1.8, label="real network")
        when = "never leaves 5 %" if run["left_at"] is None else f"leaves 5 % at step {run['left_at']}"
        upper.set_title(f"{run['aggregator']} of {run['directions']}: {when}", loc="left", fontsize=9.5)
        upper.set(xscale="log", ylabel="loss (1/2n)|f − y|²" if column == 0 else "")
        upper.set_xlim(1, steps[-1])
        upper.set_ylim(bottom=0)
        deviations = [None if value is None else 100 * value for value in run["deviation"]]
        lower.plot(*_points(steps, deviations, positive=False), color=COLOURS["real"], linewidth=1.5)
        limit = 100 * run["threshold"]
        lower.axhspan(-limit, limit, color="#dddddd", alpha=0.6, linewidth=0)
        for axes in (upper, lower):
            if run["left_at"]:
                axes.axvline(run["left_at"], color="#555555", linewidth=0.9, linestyle=(0, (2, 2)))
        lower.set(xscale="log", xlabel="step", ylabel="deviation [%]" if column == 0 else "")
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3)


def _points(across: Points, values: Points, positive: bool = True) -> tuple[list[float], list[float]]:
    """The points that a curve has: no gaps where a run was lost, and none at step 0 of a logarithmic axis."""
    found = [
        (place, value)
        for place, value in zip(across, values, strict=True)
        if place is not None and value is not None and not (positive and (place <= 0 or value <= 0))
    ]
    return [place for place, _ in found], [value for _, value in found]


def _cut(losses: Points, first: float) -> list[float | None]:
    return [None if loss is None else min(loss, BEYOND * first) for loss in losses]


def _pair(
    steps: Points, low: Points, high: Points, first: float
) -> tuple[list[float], list[float], list[float]]:
    """A band; where its upper edge is infinite it reaches beyond the panel."""
    found = [
        (step, min(bottom, BEYOND * first), BEYOND * first if top is None else min(top, BEYOND * first))
        for step, bottom, top in zip(steps, low, high, strict=True)
        if step is not None and step > 0 and bottom is not None
    ]
    return [step for step, _, _ in found], [bottom for _, bottom, _ in found], [top for _, _, top in found]
