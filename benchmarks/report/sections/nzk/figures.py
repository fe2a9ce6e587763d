"""The figures of an NZK experiment, drawn from its record alone."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

from benchmarks.report.section import Data
from benchmarks.report.sections.nzk.tables import CURVES, digits
from benchmarks.report.ticks import plain_ticks
from zo_triton._figures import BLUE, GREEN, OLIVE, PURPLE, QUIET, RULE, SMALLEST, WIDTH
from zo_triton._tables import number

COLOURS = {
    "first": GREEN,
    "independent": OLIVE,
    "shared": PURPLE,
    "fused": BLUE,
    "real": BLUE,
    "predicted": QUIET,
}
TITLE: Any = {"x": 0.01, "ha": "left", "fontsize": SMALLEST, "fontweight": "bold"}
"""Of a part of a figure."""

HEADROOM = 4.0
"""How far above the first loss a curve is shown; a mean that grows without bound leaves through the top."""

BEYOND = 1e3
"""Multiple of the first loss at which a curve is cut: far above every panel, far below overflow."""

Points = Sequence[float | None]


def draw_losses(figure: Any, section: Data) -> None:
    """Every case's loss curves with their closed forms, a panel below the other."""
    cases = section["cases"]
    figure.set_size_inches(WIDTH, 1.6 + 3.4 * len(cases))
    panels = figure.subplots(len(cases), 1, squeeze=False)[:, 0]
    for axes, case in zip(panels, cases, strict=True):
        _loss_panel(axes, case)
        ratio = case["acceleration"]
        measured, predicted = digits(ratio["ratio"]), digits(ratio["ratio_predicted"])
        axes.set_title(f"{case['name']}\nshared {measured}× (predicted {predicted}×)")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=1)


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
    axes.plot([], [], color=QUIET, linestyle=(0, (5, 2)), linewidth=1.1, label="predicted mean loss")
    axes.plot([], [], color=QUIET, linestyle=(0, (1, 1.5)), linewidth=1.1, label="loss of the mean outputs")
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
    plain_ticks(axes.yaxis)


def draw_kernels(figure: Any, section: Data) -> None:
    """Expected kernel, empirical kernel and their difference, one row a kernel."""
    cases = section["cases"]
    chosen = [
        (case, picture)
        for case in cases
        for picture in case["kernels"]
        if len(cases) <= 2 or picture["coupling"] == "shared"
    ]
    figure.set_size_inches(WIDTH, 3.0 * len(chosen))
    for part, (case, picture) in zip(_parts(figure, len(chosen)), chosen, strict=True):
        difference, error = (100 * picture[f"relative_{kind}"] for kind in ("difference", "error"))
        prefix = f"{case['name']}, " if len(cases) > 1 else ""
        blocks = f", in blocks of {picture['block']}" if picture["block"] > 1 else ""
        part.suptitle(
            f"{prefix}{picture['coupling']}: {digits(picture['factor'])}·NTK, difference {difference:.2g} %\n"
            f"(error {error:.2g} %); by {picture['order'].split(',')[0].split('[')[0].strip()}{blocks}",
            **TITLE,
        )  # fmt: skip
        _draw_kernel(part.subplots(1, 3), picture)


def _draw_kernel(row: Any, picture: Data) -> None:
    """Three matrices, the first two on one scale of colours, the last on its own, which is even about 0."""
    expected, empirical = picture["expected"], picture["empirical"]
    gap = [
        [left - right for left, right in zip(one, other, strict=True)]
        for one, other in zip(empirical, expected, strict=True)
    ]
    flat = [value for matrix in (expected, empirical) for line in matrix for value in line]
    largest = max(abs(value) for line in gap for value in line) or 1.0
    whole, even = (min(flat), max(flat)), (-largest, largest)
    shown = (
        ("expected", expected, whole, "viridis"),
        ("empirical", empirical, whole, "viridis"),
        ("difference", gap, even, "RdBu_r"),
    )
    for axes, (title, matrix, (low, high), colours) in zip(row, shown, strict=True):
        image = axes.imshow(matrix, cmap=colours, vmin=low, vmax=high, interpolation="none", rasterized=True)
        axes.set_title(title, fontweight="normal")
        axes.set(xticks=[], yticks=[])
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
        scale = axes.figure.colorbar(image, ax=axes, location="bottom")
        scale.set_ticks([low, high], labels=[number(low), number(high)])
        for text, side in zip(scale.ax.get_xticklabels(), ("left", "right"), strict=True):
            text.set_horizontalalignment(side)


def draw_snapshots(figure: Any, section: Data) -> None:
    """Outputs at chosen steps, two beside each other."""
    cases = section["cases"]
    rows = -(-len(cases[0]["snapshots"]["steps"]) // 2)
    figure.set_size_inches(WIDTH, 1.0 + 2.3 * rows * len(cases))
    parts = _parts(figure, len(cases))
    for part, case in zip(parts, cases, strict=True):
        if len(cases) > 1:
            part.suptitle(case["name"], **TITLE)
        panels = part.subplots(rows, 2, squeeze=False, sharey=True, sharex=True)
        _draw_outputs(panels, case["snapshots"])
        part.supxlabel(textwrap.fill(case["snapshots"]["label"], 40), fontsize=SMALLEST)
    handles, labels = parts[0].axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=1)


def _draw_outputs(panels: Any, snapshot: Data) -> None:
    across, targets, functions = snapshot["across"], snapshot["targets"], snapshot["functions"]
    low, high = min(targets), max(targets)
    margin = 0.25 * (high - low)
    starts = [value for value in functions["first"][0] if value is not None]
    flat = panels.ravel()
    for place, (axes, step) in enumerate(zip(flat, snapshot["steps"], strict=False)):
        axes.plot(across, targets, ".", color=QUIET, markersize=3, label="targets")
        for name in ("first", "independent", "shared"):
            axes.plot(
                *_points(across, functions[name][place], positive=False),
                color=COLOURS[name], linewidth=1.3, label=CURVES[name],
            )  # fmt: skip
        axes.set_title(f"step {step}", fontweight="normal")
        axes.set_ylim(min(low - margin, *starts), max(high + margin, *starts))
    for axes in flat[len(snapshot["steps"]) :]:
        axes.set_visible(False)
    for axes in panels[:, 0]:
        axes.set_ylabel("output")


def draw_network(figure: Any, section: Data) -> None:
    """Each run's loss beside the prediction, and below it its deviation."""
    runs = section["network"]["runs"]
    figure.set_size_inches(WIDTH, 1.0 + 4.6 * len(runs))
    parts = _parts(figure, len(runs))
    for part, run in zip(parts, runs, strict=True):
        when = "never leaves 5 %" if run["left_at"] is None else f"leaves 5 % at step {run['left_at']}"
        part.suptitle(f"{run['aggregator']} of {run['directions']}: {when}", **TITLE)
        _draw_run(part.subplots(2, 1, sharex=True, height_ratios=(1.5, 1)), run)
    handles, labels = parts[0].axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=1)


def _draw_run(panels: Any, run: Data) -> None:
    upper, lower = panels
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
    upper.set(xscale="log", ylabel="loss (1/2n)|f − y|²")
    upper.set_xlim(1, steps[-1])
    upper.set_ylim(bottom=0)
    deviations = [None if value is None else 100 * value for value in run["deviation"]]
    lower.plot(*_points(steps, deviations, positive=False), color=COLOURS["real"], linewidth=1.5)
    limit = 100 * run["threshold"]
    lower.axhspan(-limit, limit, color=RULE, alpha=0.6, linewidth=0)
    for axes in (upper, lower) if run["left_at"] else ():
        axes.axvline(run["left_at"], color=QUIET, linewidth=0.9, linestyle=(0, (2, 2)))
    lower.set(xscale="log", xlabel="step", ylabel="deviation [%]")


def _parts(figure: Any, count: int) -> Any:
    """Parts of a figure below each other, each with a title of its own."""
    return figure.subfigures(count, 1, squeeze=False)[:, 0]


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
