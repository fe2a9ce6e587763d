"""The races: who reaches a target soonest, from one start on the same batches."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from statistics import median

from benchmarks.report.changes import Change, drift
from benchmarks.report.literal import code, literal, spoken
from benchmarks.report.section import Data, Figure, Findings, Loss, Section, Show
from benchmarks.report.sections.race.figures import curves_against, draw_result, has_runs
from benchmarks.report.statistics import (
    OURS,
    UNITS,
    find,
    median_reached,
    quartiles_reached,
    soonest,
    units,
)
from benchmarks.report.words import LEVEL, listed, seeds, times
from zo_triton._tables import NOT_REACHED, lay_out, number

NO_K = "–"
"""Of a method that walks no directions."""


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
        *_mishaps(section),
        *show("race_result"),
        *show("race_time"),
        *show("race_evaluations"),
        "#### Tuning, set-up and easier targets",
        details(section),
        "#### How the learning rates were chosen",
        section["tuning"]["note"],
        sweep(section),
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
        f"- {method['label']} warned: {code(text)}"
        for method in section["methods"]
        for text in method.get("warnings", ())
    ]
    return ["\n".join([*left_out, *warned])] if left_out or warned else []


def table(section: Data) -> str:
    """One row a method, soonest to the hardest target first: what it took to get there, and what a step takes."""
    target = max(section["config"]["targets"])
    goal = f"{100 * target:.0f} %"
    told = units(section["methods"])
    headers = ["method", *(f"{UNITS[unit]} to {goal}" for unit in told), "best accuracy", "ms a step"]
    headers += ["evaluations a step"]
    rows = []
    for method in soonest(section["methods"], target):
        if "error" in method:
            failed = f"failed: {literal(spoken(method['error'])[:80])}"
            rows.append([method["label"], failed, *[""] * (len(headers) - 2)])
            continue
        runs = method["runs"]
        best = median(max(point[4] for point in run["curve"]) for run in runs)
        rows.append(
            [
                method["label"], *_taken(runs, target, told), f"{100 * best:.1f} %", number(method["step_ms"]),
                str(method["evaluations_per_step"]),
            ]
        )  # fmt: skip
    return lay_out(headers, rows)


def details(section: Data) -> str:
    """One row a method: what was tuned, what the first steps took, and the easier targets."""
    *easier, hardest = sorted(section["config"]["targets"])
    tunes_k = any("directions" in method for method in section["methods"])
    headers = ["method", "tuned lr", *(["tuned K"] if tunes_k else []), "trials", "set-up s"]
    told = units(section["methods"])
    headers += [f"{UNITS[unit]} to {100 * target:.0f} %" for target in easier for unit in told]
    rows = []
    for method in soonest(section["methods"], hardest):
        if "error" in method:
            continue
        row = [method["label"], number(method["lr"])]
        row += [number(method["directions"], missing=NO_K)] if tunes_k else []
        row += [str(len(method["trials"])), number(method["set_up_seconds"])]
        rows.append([*row, *(cell for target in easier for cell in _taken(method["runs"], target, told))])
    return lay_out(headers, rows)


def _taken(runs: list[Data], target: float, told: Sequence[str]) -> list[str]:
    """What it took to a target: of wall-clock the quartiles as well."""
    return [_with_range(runs, target), *(number(median_reached(runs, target, unit)) for unit in told[1:])]


def _with_range(runs: list[Data], target: float) -> str:
    """Median seconds to a target, and in brackets their quartiles where there are several runs."""
    taken = median_reached(runs, target, "seconds")
    middle = number(taken)
    if taken is None or len(runs) < 2:
        return middle
    low, high = quartiles_reached(runs, target, "seconds")
    return f"{middle} ({number(low)} – {number(high, missing='never')})"


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
    never: list[str] = []
    lost: list[Loss] = []
    for other in section["methods"]:
        if other["family"] == OURS:
            continue
        theirs = median_reached(other["runs"], target, "seconds")
        if "error" in other:
            told.append(f"{other['label']} failed")
        elif theirs is None:
            never.append(other["label"])
        elif 1 / LEVEL < theirs / seconds < LEVEL:
            told.append(f"{other['label']} {number(theirs, 's')} (as soon)")
        elif theirs < seconds:
            sooner = times(seconds / theirs)
            told.append(f"{other['label']} {number(theirs, 's')} (**{sooner} faster**)")
            lost.append((f"{other['label']} was sooner", f"{section['task']} ({sooner})"))
        else:
            told.append(f"{other['label']} {number(theirs, 's')} ({times(theirs / seconds)} slower)")
    takes = f"{head}: {ours['label']} takes **{number(seconds, 's')}**"
    missed = f"{NOT_REACHED} within {limit:g} s of training by {listed(never)}" if never else ""
    text = "; ".join(filter(None, (takes, ", ".join(told), missed)))
    return Findings([f"{text}."], lost if told or never else None)


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
    timed=True,
    keys=("task", "config", "parameters", "tuning", "methods"),
    blocks=blocks,
    figures=(
        Figure("race_result", "Seconds to the hardest target, and their quartiles", draw_result, has_runs),
        Figure(
            "race_time",
            "Accuracy and loss against training time",
            curves_against("seconds of training\n(evaluation excluded)", 1),
            has_runs,
        ),
        Figure(
            "race_evaluations",
            "Accuracy and loss against forward evaluations",
            curves_against("forward evaluations\n(a backward pass counts as two)", 2),
            has_runs,
        ),
    ),
    findings=findings,
    changes=changes,
    headline=headline,
)
