"""The races: who reaches a target soonest, from one start on the same batches."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from statistics import median
from typing import Any

from benchmarks.report.changes import Change, drift
from benchmarks.report.drawing import look
from benchmarks.report.section import Data, Figure, Findings, Loss, Section, Show
from benchmarks.report.statistics import (
    OURS,
    curve_of_median_run,
    find,
    median_reached,
    quartiles_reached,
    soonest,
)
from benchmarks.report.words import LEVEL, listed, seeds, times
from zo_triton._figures import PALETTE
from zo_triton._tables import NOT_REACHED, lay_out, number

NO_K = "–"
"""Of a method that walks no directions."""

DIVERGED = 4.0
"""A training loss of so many times the first one is beyond its panel."""


def blocks(section: Data, show: Show) -> list[str]:
    """The race's table and curves, and how its learning rates were found."""
    config = section["config"]
    # Records from before there were other networks hold the widths instead.
    network = section.get("network") or "ReLU network " + "-".join(map(str, config["sizes"]))
    count = len(config["seeds"])
    intro = (
        f"{network} ({section['parameters']} weights), batch {config['batch']}, "
        f"{count} {'seed' if count == 1 else 'seeds'}; for each seed all methods start from the same weights and "
        f"see the same batches. {_walked(config['directions'])} "
        "The clock runs during training steps only: evaluation, compilation and warm-up are outside. "
        "Times are medians over the seeds of the first checkpoint at or above the target, in brackets the "
        "quartiles; *set-up* is the first two steps, where compilation happens; *trials* are learning rates, or "
        "pairs of a learning rate and a K, tried; a run ends at "
        f"the hardest target (plus a little, for the curves) or after {config['run_seconds']:g} s of "
        "training."
    )
    return [
        f"## The race: {section['task']}",
        intro,
        table(section),
        *show("race_time"),
        *show("race_evaluations"),
        "### How the learning rates were chosen",
        section["tuning"]["note"],
        sweep(section),
        *_mishaps(section),
    ]


def _walked(directions: int | list[int]) -> str:
    """How many directions are walked; records from before K was tuned have one number for all."""
    if isinstance(directions, int):
        return f"Zeroth-order methods walk K = {directions} directions a step unless said."
    tried = listed([str(each) for each in directions], "or")
    return f"Zeroth-order methods walk K directions a step, of {tried} those that got there soonest in the sweep."


def _mishaps(section: Data) -> list[str]:
    """Who could not run here, and what methods warned of; records from before either was kept have neither."""
    left_out = [f"- {each['label']} is left out: {each['why']}" for each in section.get("left_out", ())]
    warned = [
        f"- {method['label']} warned: `{text.replace('`', chr(39))}`"
        for method in section["methods"]
        for text in method.get("warnings", ())
    ]
    return ["\n".join([*left_out, *warned])] if left_out or warned else []


def table(section: Data) -> str:
    """One row a method: time, steps and evaluations to each target, soonest to the hardest target first."""
    targets = section["config"]["targets"]
    tunes_k = any("directions" in method for method in section["methods"])
    headers = ["method", "tuned lr", *(["tuned K"] if tunes_k else []), "trials"]
    headers += ["set-up s", "ms a step", "evaluations a step"]
    headers += [
        f"{unit} to {100 * target:.0f} %" for target in targets for unit in ("seconds", "evaluations")
    ]
    headers.append("best accuracy")
    rows = []
    for method in soonest(section["methods"], max(targets)):
        runs = method["runs"]
        if "error" in method:
            failed = f"failed: {method['error'].replace('|', '/')[:80]}"
            rows.append([method["label"], failed, *[""] * (len(headers) - 2)])
            continue
        row = [
            method["label"],
            number(method["lr"]),
            *([number(method["directions"], missing=NO_K)] if tunes_k else []),
            str(len(method["trials"])),
            number(method["set_up_seconds"]),
            number(method["step_ms"]),
            str(method["evaluations_per_step"]),
        ]
        for target in targets:
            row.append(_with_range(runs, target))
            row.append(number(median_reached(runs, target, "evaluations")))
        accuracies = sorted(max(point[4] for point in run["curve"]) for run in runs)
        row.append(f"{100 * accuracies[len(accuracies) // 2]:.1f} %")
        rows.append(row)
    return lay_out(headers, rows)


def _with_range(runs: list[Data], target: float) -> str:
    """Median seconds to a target, and in brackets their quartiles where there are several runs."""
    middle = number(median_reached(runs, target, "seconds"))
    if len(runs) < 2:
        return middle
    low, high = quartiles_reached(runs, target, "seconds")
    return f"{middle} ({number(low, missing='–')} – {number(high, missing='never')})"


def sweep(section: Data) -> str:
    """Every trial of the sweep, a row each K: steps to the hardest target, or the best accuracy reached."""
    rates = section["tuning"]["learning_rates"]
    tunes_k = "directions" in section["tuning"]
    rows = []
    for method in section["methods"]:
        chosen = method["lr"], method.get("directions")
        for directions in dict.fromkeys(trial.get("directions") for trial in method["trials"]):
            cells = dict.fromkeys(rates, "")
            for trial in method["trials"]:
                if trial.get("directions") == directions:
                    text = _outcome(trial)
                    cells[trial["lr"]] = f"**{text}**" if (trial["lr"], directions) == chosen else text
            rows.append(
                [method["label"], *([number(directions, missing=NO_K)] if tunes_k else []), *cells.values()]
            )
    return lay_out(["method", *(["K"] if tunes_k else []), *(f"lr {rate:g}" for rate in rates)], rows)


def _outcome(trial: Data) -> str:
    """Steps to the hardest target, or in brackets the best accuracy."""
    if trial["steps"] is not None:
        return f"{trial['steps']} steps"
    return f"({100 * trial['best_accuracy']:.0f} %)"


def curves_against(axis_title: str, column: int) -> Callable[[Any, Data], None]:
    """A drawing function: accuracy above, loss below, against one column of the curves."""

    def draw(figure: Any, section: Data) -> None:
        figure.set_size_inches(8.2, 6.6)
        upper, lower = figure.subplots(2, 1, sharex=True)
        for position, method in enumerate(one for one in section["methods"] if one["runs"]):
            # A logarithmic axis has no place for the untrained point at zero.
            points = [point for point in curve_of_median_run(method) if point[column] > 0]
            ours = method["family"] == OURS
            style = look(ours, position, 2.4) | {
                "color": PALETTE[position % len(PALETTE)],
                "zorder": 3 if ours else 2,
            }
            if len(points) == 1:  # a line of one point can't be seen
                style["marker"] = "o"
            across = [point[column] for point in points]
            upper.plot(across, [100 * point[4] for point in points], label=method["label"], **style)
            lower.plot(across, [point[3] for point in points], **style)
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


def _has_runs(section: Data) -> bool:
    return any(method["runs"] for method in section["methods"])


def findings(section: Data) -> Findings:
    """Who got to the hardest target, and how much sooner or later than the soonest fused method."""
    target, limit = max(section["config"]["targets"]), section["config"]["run_seconds"]
    goal = f"{100 * target:.0f} % test accuracy on {section['task']}"
    fused = soonest([one for one in section["methods"] if one["family"] == OURS], target)
    # Whoever failed speaks for the others only where all did.
    fused.sort(key=lambda method: "error" in method)
    if not fused:
        return Findings([f"**{goal}**: no fused method took part."])
    ours = fused[0]
    seconds = median_reached(ours["runs"], target, "seconds")
    head = f"**{goal}**, {seeds(len(ours['runs']))}"
    if "error" in ours:
        return Findings([f"**{goal}**: {ours['label']} failed."], [(f"{ours['label']} failed", goal)])
    if seconds is None:
        return Findings(
            [f"{head}: {ours['label']} did not get there."], [(f"{ours['label']} never got there", goal)]
        )
    told: list[str] = []
    lost: list[Loss] = []
    for other in section["methods"]:
        if other["family"] == OURS:
            continue
        theirs = median_reached(other["runs"], target, "seconds")
        if "error" in other:
            told.append(f"{other['label']} failed")
        elif theirs is None:
            told.append(f"{other['label']} {NOT_REACHED} within {limit:g} s of training")
        elif 1 / LEVEL < theirs / seconds < LEVEL:
            told.append(f"{other['label']} {number(theirs, 's')} (as soon)")
        elif theirs < seconds:
            sooner = times(seconds / theirs)
            told.append(f"{other['label']} {number(theirs, 's')} (**{sooner} faster**)")
            lost.append((f"{other['label']} was sooner", f"{section['task']} ({sooner})"))
        else:
            told.append(f"{other['label']} {number(theirs, 's')} ({times(theirs / seconds)} slower)")
    takes = f"{head}: {ours['label']} takes **{number(seconds, 's')}**"
    return Findings(["; ".join(filter(None, (takes, ", ".join(told)))) + "."], lost if told else None)


def headline(section: Data) -> dict[str, float]:
    """Seconds of the soonest fused method to the hardest target, beside those of the soonest backpropagation."""
    target = max(section["config"]["targets"])
    taken = {}
    for family in (OURS, "first"):
        ahead = soonest([one for one in section["methods"] if one["family"] == family], target)
        taken[family] = median_reached(ahead[0]["runs"], target, "seconds") if ahead else None
    ours, theirs = taken[OURS], taken["first"]
    if ours is None:
        return {}
    found = {f"{section['task']} s": ours}
    return found if theirs is None else found | {f"{section['task']} over backprop": ours / theirs}


def changes(old: Data, new: Data) -> Iterator[Change]:
    """Seconds to each target that both races of one task have, over the ranges of their seeds.

    What took one race longer than the other one's runs may last counts as not reached in both.
    """
    if old["task"] != new["task"]:
        return
    caps = {race["config"]["run_seconds"] for race in (old, new)}
    limit = min(caps) if len(caps) > 1 else math.inf
    targets = [f"{target:g}" for target in new["config"]["targets"] if target in old["config"]["targets"]]
    found = [(find(old["methods"], method["name"]), method) for method in new["methods"]]
    speed, doubt = drift(
        [(one["step_ms"], other["step_ms"]) for one, other in found if one and other["family"] != OURS]
    )
    for earlier, method in found:
        both = earlier is not None and earlier["runs"] and method["runs"]
        for target in targets if both else ():
            assert earlier is not None
            before, after = (_seconds(each, target, limit) for each in (earlier, method))
            if not (math.isfinite(before[1]) or math.isfinite(after[1])):
                continue
            ratio, low, high = (
                _over(after[late], before[early]) / speed for late, early in ((1, 1), (0, 2), (2, 0))
            )
            yield Change(
                f"race, {new['task']}: {method['label']} to {100 * float(target):g} %", _reached(before[1]),
                _reached(after[1]), ratio, low / math.exp(doubt), high * math.exp(doubt),
            )  # fmt: skip


def _seconds(method: Data, target: str, limit: float) -> tuple[float, float, float]:
    """Fastest, median and slowest of the seeds; infinite where the target was not reached within the limit."""
    reached = [run["reached"][target] for run in method["runs"]]
    taken = [math.inf if one is None or one["seconds"] > limit else float(one["seconds"]) for one in reached]
    return min(taken), median(taken), max(taken)


def _over(after: float, before: float) -> float:
    """A ratio of times; two that were not reached tell nothing."""
    if math.isinf(after):
        return 1.0 if math.isinf(before) else math.inf
    return 0.0 if math.isinf(before) else after / before


def _reached(seconds: float) -> str:
    return NOT_REACHED if math.isinf(seconds) else number(seconds, "s")


SECTION = Section(
    name="race",
    place=20,
    several=True,
    keys=("task", "config", "parameters", "tuning", "methods"),
    blocks=blocks,
    figures=(
        Figure(
            "race_time",
            "Accuracy and loss against training time",
            curves_against("seconds of training (evaluation excluded)", 1),
            _has_runs,
        ),
        Figure(
            "race_evaluations",
            "Accuracy and loss against forward evaluations",
            curves_against("forward evaluations (a backward pass counts as two)", 2),
            _has_runs,
        ),
    ),
    findings=findings,
    changes=changes,
    headline=headline,
)
