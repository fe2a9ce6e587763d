"""How a method's learning rate and K are chosen: by as many trials for everybody, on validation splits."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from statistics import median
from typing import Any

from benchmarks.contenders.contender import Method
from benchmarks.race.clocks import RaceClock
from benchmarks.race.loaded_task import LoadedTask
from benchmarks.race.settings import Choice, RaceConfig, choices
from benchmarks.race.training_run import run
from benchmarks.timing import round_digits

FINALISTS = 3
"""Choices that the sweep tries with all of its seeds."""

Attempts = dict[Choice, list[dict[str, Any]]]
"""Each choice's runs."""


def most_seconds(config: RaceConfig, methods: int) -> float:
    """How long so many methods train at most, sweep and runs."""
    sweep = (len(config.learning_rates) / 4 + FINALISTS * len(config.tuning_seeds)) * config.trial_seconds
    return methods * (sweep + len(config.seeds) * config.run_seconds)


def tune(
    method: Method, task: LoadedTask, config: RaceConfig, clock: RaceClock | None = None
) -> tuple[Choice, list[dict[str, Any]]]:
    """The sweep: the learning rate, and K, that get to the last target soonest on validation splits.

    Every choice has a trial of a quarter of ``trial_seconds`` with the first tuning seed; the best
    :data:`FINALISTS` are tried with every tuning seed in full length, and the median decides, because a rate
    that is too high reaches any target by luck now and then. Each tuning seed holds out examples of its own: of
    one split, all would learn together whether it is an easy one. Soonest is by steps times what a step with that K
    takes in the median over all of its trials, so that the choice depends little on the machine's load. Among
    choices whose median did not reach the target the lowest training loss decides.

    Returns:
        The choice, and one row a trial.
    """
    splits = {seed: replace(task, data=task.data.validation(seed=seed)) for seed in config.tuning_seeds}
    first = config.tuning_seeds[0]
    attempts: Attempts = {
        choice: [run(method, splits[first], config, first, choice, config.trial_seconds / 4, clock)]
        for choice in choices(method, config)
    }
    trials = _rows(attempts)
    finalists = sorted(trials, key=lambda choice: _rank(trials[choice]))[:FINALISTS]
    for choice in finalists:
        attempts[choice] = [
            run(method, split, config, seed, choice, config.trial_seconds, clock)
            for seed, split in splits.items()
        ]
    trials = _rows(attempts)
    return min(finalists, key=lambda choice: _rank(trials[choice])), list(trials.values())


def _rows(attempts: Attempts) -> dict[Choice, dict[str, Any]]:
    """A row a choice: the median of its attempts, an attempt that did not get there counting as infinite."""
    paces: dict[int | None, list[float]] = {}
    for choice, runs in attempts.items():
        paces.setdefault(choice.directions, []).extend(one["step_ms"] for one in runs)
    return {
        choice: _row(choice, runs, round_digits(median(paces[choice.directions])))
        for choice, runs in attempts.items()
    }


def _row(choice: Choice, attempts: list[dict[str, Any]], step_ms: float) -> dict[str, Any]:
    goal = max(attempts[0]["reached"], key=float)
    steps = _median_steps(attempt["reached"][goal] for attempt in attempts)
    loss = median(math.inf if attempt["diverged"] else attempt["curve"][-1][3] for attempt in attempts)
    return {
        "lr": choice.lr,
        "directions": choice.directions,
        "seeds": len(attempts),
        "steps": steps,
        "step_ms": step_ms,
        "best_accuracy": median(max(point[4] for point in attempt["curve"]) for attempt in attempts),
        "loss": None if math.isinf(loss) else loss,
    }


def _median_steps(taken: Iterable[dict[str, Any] | None]) -> float | None:
    steps = median(math.inf if each is None else each["steps"] for each in taken)
    return None if math.isinf(steps) else steps


def _rank(trial: dict[str, Any]) -> tuple[float, float]:
    steps, loss = trial["steps"], trial["loss"]
    return (
        math.inf if steps is None else steps * trial["step_ms"],
        math.inf if loss is None else loss,
    )
