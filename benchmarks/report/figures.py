"""The report's figures, drawn from the record alone as SVG with the same bytes every time.

Colours are Okabe and Ito's palette, which colour-blind readers can tell apart; dashes and labels repeat what
the colours say. Matplotlib's object interface is used throughout: no global state, no display.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from benchmarks.report import scaling
from benchmarks.report.records import Record, races_of
from benchmarks.report.statistics import curve_of_median_run
from zo_triton._figures import FAMILIES, PALETTE, save_figure
from zo_triton._tables import number as spell

DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)))
DIVERGED = 4.0
"""A training loss of so many times the first one is beyond its panel."""

SMALLEST_MIB = 0.1
"""Where the logarithmic memory axis starts; a bar below it is only its number."""


def draw_all(record: Record, folder: str | os.PathLike[str], extension: str = "svg") -> list[str]:
    """Draws every figure that the record has numbers for.

    Args:
        record: A valid record.
        folder: An existing folder.
        extension: ``svg``, or ``png`` for a look at them.

    Returns:
        The file names, in the order of the report.
    """
    drawn = []
    for name, (section, draw) in _FIGURES.items():
        if section in record["sections"]:
            drawn.append(save_figure(draw, record["sections"][section], folder, name, extension))
    for stem, race in races_of(record).items():
        if any(method["runs"] for method in race["methods"]):
            for name, draw in _RACE_FIGURES.items():
                drawn.append(save_figure(draw, race, folder, f"{stem}_{name}", extension))
    return drawn


def _race_against(axis_title: str, column: int) -> Callable[[Any, dict[str, Any]], None]:
    """A drawing function: accuracy above, loss below, against one column of the curves."""

    def draw(figure: Any, section: dict[str, Any]) -> None:
        figure.set_size_inches(8.2, 6.6)
        upper, lower = figure.subplots(2, 1, sharex=True)
        for number, method in enumerate(one for one in section["methods"] if one["runs"]):
            curve = curve_of_median_run(method)
            # A logarithmic axis has no place for the untrained point at zero.
            points = [point for point in curve if point[column] > 0]
            ours = method["family"] == "fused"
            look: dict[str, Any] = {
                "color": PALETTE[number % len(PALETTE)],
                "linestyle": "-" if ours else DASHES[1 + number % 3],
                "linewidth": 2.4 if ours else 1.5,
                "zorder": 3 if ours else 2,
            }
            across = [point[column] for point in points]
            upper.plot(across, [100 * point[4] for point in points], label=method["label"], **look)
            lower.plot(across, [point[3] for point in points], **look)
        for target in section["config"]["targets"]:
            upper.axhline(100 * target, color="#777777", linewidth=0.8, linestyle=(0, (2, 2)))
            upper.annotate(
                f"{100 * target:.0f} %", (1.0, 100 * target), xycoords=("axes fraction", "data"),
                xytext=(3, -3), textcoords="offset points", color="#555555",
            )  # fmt: skip
        upper.set(xscale="log", ylabel="test accuracy [%]", ylim=(0, 101))
        lower.set(xscale="log", yscale="log", xlabel=axis_title, ylabel="training loss")
        # A run that diverges leaves the panel instead of flattening all the others.
        start = max(method["runs"][0]["curve"][0][3] for method in section["methods"] if method["runs"])
        lower.set_ylim(top=min(lower.get_ylim()[1], DIVERGED * start))
        figure.legend(loc="outside upper center", ncols=3)

    return draw


def _step_time(figure: Any, section: dict[str, Any]) -> None:
    cases = section["cases"]
    heights = [len(case["contenders"]) for case in cases]
    figure.set_size_inches(8.2, 0.27 * sum(heights) + 0.75 * len(cases) + 0.5)
    panels = figure.subplots(len(cases), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    slowest = max(contender["median_ms"] for case in cases for contender in case["contenders"])
    for axes, case in zip(panels, cases, strict=True):
        contenders = case["contenders"][::-1]
        times = [contender["median_ms"] for contender in contenders]
        colours = [FAMILIES[contender["family"]] for contender in contenders]
        axes.barh([contender["label"] for contender in contenders], times, color=colours, height=0.72)
        for row, time in enumerate(times):
            axes.annotate(
                spell(time, "ms"), (time, row), xytext=(4, 0), textcoords="offset points", va="center"
            )
        axes.set_title(case["name"], loc="left", fontsize=9, fontweight="bold")
        axes.set(xscale="log", xlim=(0.05, slowest * 4))
        axes.grid(axis="y", visible=False)
    panels[-1].set_xlabel(
        "milliseconds a step, median, logarithmic\n(blue: fused, yellow: other zeroth-order, green: backprop)"
    )


def _step_split(figure: Any, section: dict[str, Any]) -> None:
    cases = section["cases"]
    figure.set_size_inches(8.2, 0.55 * len(cases) + 1.3)
    axes = figure.subplots()
    names = list(cases[0]["parts"])
    positions = list(range(len(cases)))[::-1]
    left = [0.0] * len(cases)
    for number, name in enumerate(names):
        shares = []
        for case in cases:
            total = sum(case["parts"].values())
            shares.append(100 * case["parts"][name] / total)
        axes.barh(positions, shares, left=left, color=PALETTE[number], height=0.6, label=name)
        for position, start, share, case in zip(positions, left, shares, cases, strict=True):
            if share >= 6:
                text = f"{case['parts'][name]:.2g} ms"
                axes.text(
                    start + share / 2, position, text, ha="center", va="center", color="white", fontsize=8
                )
        left = [start + share for start, share in zip(left, shares, strict=True)]
    axes.set_yticks(positions, [case["name"] for case in cases])
    axes.set(xlim=(0, 100), xlabel="share of one fused step [%]")
    axes.grid(axis="y", visible=False)
    figure.legend(loc="outside upper center", ncols=len(names))


def _throughput(figure: Any, section: dict[str, Any]) -> None:
    figure.set_size_inches(8.2, 3.4)
    axes = figure.subplots()
    rows = section["throughput"]["rows"]
    for number, name in enumerate(("central", "one_sided")):
        axes.plot(
            [row["batch"] for row in rows], [row[name] for row in rows], color=PALETTE[number], marker="os"[number],
            markersize=4.5, linewidth=2.2, label=f"fused, {name.replace('_', '-')}",
        )  # fmt: skip
    axes.axhline(1.0, color="#777777", linewidth=0.8, linestyle=(0, (2, 2)))
    axes.annotate("plain inference", (1.0, 1.0), xycoords=("axes fraction", "data"), xytext=(-80, 4),
                  textcoords="offset points", color="#555555")  # fmt: skip
    axes.set_xscale("log", base=2)
    axes.set(xlabel="batch", ylabel="evaluations a second\nover plain inference's", ylim=(0, None))
    axes.set_xticks([row["batch"] for row in rows], [str(row["batch"]) for row in rows])
    figure.legend(loc="outside upper center", ncols=2)


def _growth(figure: Any, section: dict[str, Any]) -> None:
    curves = section["growth"]
    figure.set_size_inches(8.2, 3.4)
    for axes, curve in zip(
        figure.subplots(1, len(curves), sharey=True, squeeze=False)[0], curves, strict=True
    ):
        for number, one in enumerate(curve["contenders"]):
            axes.plot(
                curve["values"], one["ms"], color=PALETTE[number], marker="os^D"[number % 4], markersize=4.5,
                linewidth=2.2 if one["family"] == "fused" else 1.5,
                linestyle="-" if one["family"] == "fused" else DASHES[1 + number % 3],
                label=one["label"] if axes.get_subplotspec().is_first_col() else None,
            )  # fmt: skip
        axes.set_xscale("log", base=2)
        axes.set(yscale="log", xlabel=f"{curve['axis']}\n({curve['fixed']})")
        axes.set_xticks(curve["values"], [str(value) for value in curve["values"]])
        if axes.get_subplotspec().is_first_col():
            axes.set_ylabel("milliseconds a step")
    figure.legend(loc="outside upper center", ncols=len(curves[0]["contenders"]))


def _accuracy(figure: Any, section: dict[str, Any]) -> None:
    figure.set_size_inches(8.2, 4.0)
    axes = figure.subplots()
    rows = section["rows"]
    for number, name in enumerate(rows[0]["errors"]):
        points = [(row["eps"], row["errors"][name]) for row in rows if row["errors"][name]]
        ours = name.startswith("propagated")
        axes.plot(
            *zip(*points, strict=True),
            label=name,
            color=PALETTE[number],
            marker="os^D"[number % 4],
            markersize=4.5,
            linestyle="-" if ours else DASHES[1 + number % 3],
            linewidth=2.2 if ours else 1.5,
        )
    axes.set(xscale="log", yscale="log", xlabel="ε", ylabel="median relative error of a loss difference")
    axes.invert_xaxis()
    figure.legend(loc="outside upper center", ncols=2)


def _memory(figure: Any, section: dict[str, Any]) -> None:
    cases = section["cases"]
    heights = [len(case["methods"]) + 1 for case in cases]
    figure.set_size_inches(8.2, 0.27 * sum(heights) + 0.75 * len(cases) + 0.5)
    panels = figure.subplots(len(cases), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    for axes, case in zip(panels, cases, strict=True):
        bars = [(method["label"], method["excess_mib"], method["family"]) for method in case["methods"]]
        bars.append(("one chunk of differences", case["chunk_mib"], "limit"))
        labels, sizes, families = zip(*bars[::-1], strict=True)
        axes.barh(labels, sizes, color=[FAMILIES[family] for family in families], height=0.72)
        for row, size in enumerate(sizes):
            place = (max(size, SMALLEST_MIB), row)
            axes.annotate(spell(size, "MiB"), place, xytext=(4, 0), textcoords="offset points", va="center")
        axes.set_title(case["name"], loc="left", fontsize=9, fontweight="bold")
        axes.set(
            xscale="log",
            xlim=(SMALLEST_MIB, 4 * max(1.0, *(size for case in cases for size in _sizes(case)))),
        )
        axes.grid(axis="y", visible=False)
    panels[-1].set_xlabel("peak memory of a step over that of inference [MiB], logarithmic")


def _sizes(case: dict[str, Any]) -> list[float]:
    return [method["excess_mib"] for method in case["methods"]]


_RACE_FIGURES = {
    "time": _race_against("seconds of training (evaluation excluded)", 1),
    "evaluations": _race_against("forward evaluations (a backward pass counts as two)", 2),
}

_FIGURES: dict[str, tuple[str, Callable[[Any, dict[str, Any]], None]]] = {
    "throughput": ("curves", _throughput),
    "growth": ("curves", _growth),
    "step_time": ("step_time", _step_time),
    "step_split": ("step_split", _step_split),
    "accuracy": ("accuracy", _accuracy),
    "memory": ("memory", _memory),
    "scaling": ("scaling", scaling.draw),
}
