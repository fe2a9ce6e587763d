"""The figures of a race: who got there when, and everybody's curves on the way."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from typing import Any

from benchmarks.report.colours import colour_of, looks
from benchmarks.report.dots import Dot, dots
from benchmarks.report.labels import Label, label_ends
from benchmarks.report.section import Data
from benchmarks.report.statistics import (
    OURS,
    median_reached,
    median_run,
    quartiles,
    quartiles_reached,
    soonest,
)
from benchmarks.report.ticks import plain_ticks
from zo_triton._figures import QUIET, WIDTH
from zo_triton._tables import NOT_REACHED

DIVERGED = 4.0
"""A training loss of so many times the first one is beyond its panel."""


def draw_result(figure: Any, section: Data) -> None:
    """A row a method, the soonest on top: median seconds to the hardest target, and their quartiles."""
    target = max(section["config"]["targets"])
    rows = [_row(method, target) for method in soonest(section["methods"], target)]
    axes = dots(figure, [(f"{100 * target:.0f} % on {section['task']}", rows)], "s")
    axes.set_xlabel("seconds of training, logarithmic\n(band: quartiles of the seeds)")


def _row(method: Data, target: float) -> Dot:
    runs, ours = method["runs"], method["family"] == OURS
    instead = "failed" if "error" in method else NOT_REACHED
    band = quartiles_reached(runs, target, "seconds") if len(runs) > 1 else None
    taken = median_reached(runs, target, "seconds")
    return Dot(method["label"], taken, colour_of(method), ours, band, instead)


def curves_against(axis_title: str, column: int) -> Callable[[Any, Data], None]:
    """A drawing function: accuracy above, loss below, against one column of the curves."""

    def draw(figure: Any, section: Data) -> None:
        figure.set_size_inches(WIDTH, 7.4)
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(1.5, 1))
        methods = [method for method in section["methods"] if method["runs"]]
        ends = []
        for method, look in zip(methods, looks(methods), strict=True):
            _draw_curve(lower, method, look, column, 3)
            end = _draw_curve(upper, method, look, column, 4, scale=100)
            ends.append(Label(method["label"], end, look["color"], method["family"] == OURS))
        for target in section["config"]["targets"]:
            upper.axhline(100 * target, color=QUIET, linewidth=0.8, linestyle=(0, (2, 2)))
        upper.set(xscale="log", ylabel="test accuracy [%]")
        upper.set_ylim(top=min(upper.get_ylim()[1], 101))
        lower.set(xscale="log", yscale="log", xlabel=axis_title, ylabel="training loss")
        # A run that diverges leaves the panel instead of flattening all the others.
        start = max(method["runs"][0]["curve"][0][3] for method in methods)
        lower.set_ylim(top=min(lower.get_ylim()[1], DIVERGED * start))
        plain_ticks(lower.yaxis)
        plain_ticks(lower.xaxis)
        label_ends(upper, ends)

    return draw


def _draw_curve(
    axes: Any, method: Data, look: dict[str, Any], across: int, up: int, scale: float = 1.0
) -> tuple[float, float]:
    """The seeds' median at the median run's checkpoints, and behind it their quartiles; returns the last point."""
    # A logarithmic axis has no place for the untrained point at zero.
    points = [point for point in median_run(method)["curve"] if point[across] > 0]
    values = [[scale * value for value in _values_at(method["runs"], point[0], up)] for point in points]
    places, middle = [point[across] for point in points], [median(each) for each in values]
    # A line of one point can't be seen.
    axes.plot(places, middle, marker="o" if len(points) == 1 else None, **look)
    if len(method["runs"]) > 1:
        low, high = zip(*map(quartiles, values), strict=True)
        axes.fill_between(places, low, high, color=look["color"], alpha=0.18, linewidth=0, zorder=1)
    return places[-1], middle[-1]


def _values_at(runs: list[Data], step: float, column: int) -> list[float]:
    """Each run's value at the last of its points that is no later than a step: what has ended stays as it was."""
    return [next(point[column] for point in reversed(run["curve"]) if point[0] <= step) for run in runs]


def has_runs(section: Data) -> bool:
    """Whether there is a curve to draw."""
    return any(method["runs"] for method in section["methods"])
