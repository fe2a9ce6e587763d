"""Trains several methods on the same batches from the same weights and records what each second bought.

Fairness, which decides such a comparison: every method gets the same sweep (same grid, same number of trials,
same cap on the clock, on a validation split), its clock runs during training steps only, compilation and
warm-up happen before it, and the methods take turns seed by seed so that a busy machine slows them all. The clock
is the host's or a device's (:mod:`benchmarks.race.clocks`); all else is the same on both.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import torch.nn.functional as F
from torch import nn

from benchmarks.contenders.contender import Contender, Loss, Method, Setting
from benchmarks.race.clocks import HostClock, RaceClock
from benchmarks.race.loaded_task import LoadedTask
from benchmarks.timing import WARM_UPS, round_digits

Say = Callable[[str], None]

FINALISTS = 3
"""Learning rates that the sweep tries with all of its seeds."""

FIRST_CHECKPOINTS = 5
"""Accuracy is looked at every 5 steps at first, then every 2 % more steps, which bounds a time's error."""


@dataclass(frozen=True)
class RaceConfig:
    """The plain numbers of a race.

    Args:
        batch: Examples a step.
        directions: K of the zeroth-order methods.
        eps: ε of the fused methods; the others keep 1e-3, below which their differences drown.
        learning_rates: The sweep's grid, the same for every method.
        trial_seconds: Cap on the training clock of one trial among the sweep's best.
        run_seconds: Cap on the training clock of one run.
        seeds: Of weights, batches and directions.
        tuning_seeds: The sweep's own, an odd number of them.
        targets: Test accuracies to reach, ascending.
        decay_steps: Over which every optimizer's learning rate falls linearly to nothing; None keeps it.
        overrun: A run goes on to this multiple of the time to the last target, so that curves show what
        follows.
    """

    batch: int
    directions: int
    eps: float
    learning_rates: tuple[float, ...]
    trial_seconds: float
    run_seconds: float
    seeds: tuple[int, ...]
    tuning_seeds: tuple[int, ...]
    targets: tuple[float, ...]
    decay_steps: int | None = None
    overrun: float = 1.3


def log_uniform(low: float, high: float, count: int, seed: int = 0) -> tuple[float, ...]:
    """Learning rates drawn log-uniformly from [low, high), one from each of ``count`` equal parts, ascending."""
    places = (np.arange(count) + np.random.default_rng(seed).random(count)) / count
    return tuple(float(f"{low * (high / low) ** place:.2g}") for place in places)


def setting(config: RaceConfig, lr: float, seed: int, loss: Loss = F.cross_entropy) -> Setting:
    """What a method is told in a race."""
    return Setting(lr, seed, config.directions, config.eps, config.decay_steps, loss)


def run(
    method: Method,
    task: LoadedTask,
    config: RaceConfig,
    seed: int,
    lr: float,
    seconds: float,
    clock: RaceClock | None = None,
) -> dict[str, Any]:
    """One training run, until past the last target or a cap.

    Args:
        method: Who trains.
        task: What is trained, and where.
        config: The race's numbers.
        seed: Of weights, batches and directions.
        lr: Learning rate.
        seconds: The cap on the clock.
        clock: None takes the host's.

    Returns:
        ``curve``: points [step, seconds, evaluations, training loss, test accuracy];
        ``reached``: from each target to its first checkpoint or None; ``diverged``; ``step_ms``.
    """
    clock = HostClock() if clock is None else clock
    model, contender = _build(method, task, config, seed, lr)
    contender.prepare(*next(task.batches(config.batch, seed)))
    source = task.batches(config.batch, seed)
    reached: dict[str, Any] = {f"{target:g}": None for target in config.targets}
    times: list[float] = []
    spent, stop, diverged = 0.0, seconds, False
    with clock.quiet():
        curve = [_point(0, 0.0, 0, *task.evaluate(model))]
        while spent < stop:
            steps = max(FIRST_CHECKPOINTS, len(times) // 50)
            block = clock.take(contender.step, islice(source, steps), stop - spent)
            times += block.seconds
            spent += sum(block.seconds)
            diverged = block.diverged
            if diverged:
                break
            contender.write_weights()
            loss, accuracy = task.evaluate(model)
            diverged = not math.isfinite(loss)
            if diverged:
                break
            evaluations = len(times) * contender.evaluations_per_step
            curve.append(_point(len(times), spent, evaluations, loss, accuracy))
            for target in config.targets:
                if accuracy >= target and reached[f"{target:g}"] is None:
                    reached[f"{target:g}"] = {
                        "seconds": round_digits(spent),
                        "steps": len(times),
                        "evaluations": evaluations,
                    }
                    if target == config.targets[-1]:
                        stop = min(seconds, config.overrun * spent)
    return {
        "seed": seed,
        "curve": curve,
        "reached": reached,
        "diverged": diverged,
        "step_ms": round_digits(1000 * median(times)),
        "evaluations_per_step": contender.evaluations_per_step,
    }


def _build(
    method: Method, task: LoadedTask, config: RaceConfig, seed: int, lr: float
) -> tuple[nn.Module, Contender]:
    """A network with its first weights, where the data is, and who will train it."""
    model = task.make_model(seed).to(task.device)
    return model, method.build(model, setting(config, lr, seed, task.loss))


def _point(step: int, seconds: float, evaluations: int, loss: float, accuracy: float) -> list[float]:
    """A point of a curve."""
    return [step, round_digits(seconds), evaluations, round_digits(loss), round_digits(accuracy)]


def tune(
    method: Method, task: LoadedTask, config: RaceConfig, clock: RaceClock | None = None
) -> tuple[float, list[dict[str, Any]]]:
    """The sweep: the learning rate that takes the fewest steps to the last target on a validation split.

    Every rate has a trial of a quarter of ``trial_seconds`` with the first tuning seed; the best
    :data:`FINALISTS` are tried with every tuning seed in full length, and the median decides, because a rate
    that is too high reaches any target by luck now and then. Steps rather than seconds decide, so that the
    choice depends little on the machine's load. Among rates whose median did not reach the target the lowest
    training loss decides.

    Returns:
        The chosen rate, and one row a rate.
    """
    first, *others = config.tuning_seeds
    validation = replace(task, data=task.data.validation(seed=first))
    trials = {
        lr: _trial([run(method, validation, config, first, lr, config.trial_seconds / 4, clock)], lr)
        for lr in config.learning_rates
    }
    finalists = sorted(trials, key=lambda lr: _rank(trials[lr]))[:FINALISTS]
    for lr in finalists:
        attempts = [
            run(method, validation, config, seed, lr, config.trial_seconds, clock)
            for seed in (first, *others)
        ]
        trials[lr] = _trial(attempts, lr)
    return min(finalists, key=lambda lr: _rank(trials[lr])), list(trials.values())


def _trial(attempts: list[dict[str, Any]], lr: float) -> dict[str, Any]:
    """A rate's row: the median of its attempts, an attempt that did not get there counting as infinite."""
    goal = max(attempts[0]["reached"], key=float)
    taken = [attempt["reached"][goal] for attempt in attempts]
    steps = median(math.inf if each is None else each["steps"] for each in taken)
    losses = [math.inf if attempt["diverged"] else attempt["curve"][-1][3] for attempt in attempts]
    loss = median(losses)
    return {
        "lr": lr,
        "seeds": len(attempts),
        "steps": None if math.isinf(steps) else steps,
        "best_accuracy": median(max(point[4] for point in attempt["curve"]) for attempt in attempts),
        "loss": None if math.isinf(loss) else loss,
    }


def _rank(trial: dict[str, Any]) -> tuple[float, float]:
    steps, loss = trial["steps"], trial["loss"]
    return (math.inf if steps is None else steps, math.inf if loss is None else loss)


def warm_up(method: Method, task: LoadedTask, config: RaceConfig, clock: RaceClock) -> float:
    """A few steps on throw-away weights, where a process compiles; returns the seconds that they took."""
    _, contender = _build(method, task, config, 0, config.learning_rates[0])
    source = task.batches(config.batch, 0)
    start = perf_counter()
    contender.prepare(*next(source))
    clock.take(contender.step, islice(source, WARM_UPS), math.inf)
    return perf_counter() - start


def race(
    methods: Sequence[Method], task: LoadedTask, config: RaceConfig, say: Say, clock: RaceClock | None = None
) -> Iterator[list[dict[str, Any]]]:
    """Warm-up and sweep for each method, then every seed for each method in turns.

    Yields:
        After each sweep and each run, one row a method, as a record's section ``race`` holds them: so far, and at
        last complete; with ``error`` where a method failed. Whoever has no more time takes no more of them.
    """
    clock = HostClock() if clock is None else clock
    rows = {method.name: _row(method) for method in methods}
    for method in methods:
        say(f"tuning {method.label}")
        row = rows[method.name]
        with _mishaps_recorded_in(row):
            row["set_up_seconds"] = round_digits(warm_up(method, task, config, clock), 3)
            row["lr"], row["trials"] = tune(method, task, config, clock)
        yield list(rows.values())
    for turn, seed in enumerate(config.seeds):
        # Another method starts each turn: none always runs on a processor that the same rival has heated.
        shift = turn % len(methods)
        for method in [*methods[shift:], *methods[:shift]]:
            row = rows[method.name]
            if "error" in row:
                continue
            say(f"seed {seed}: {method.label}")
            with _mishaps_recorded_in(row):
                found = run(method, task, config, seed, row["lr"], config.run_seconds, clock)
                row["runs"].append(found)
                row["step_ms"] = round_digits(median(one["step_ms"] for one in row["runs"]))
                row["evaluations_per_step"] = found["evaluations_per_step"]
            yield list(rows.values())


def _row(method: Method) -> dict[str, Any]:
    """A method's row before it has run."""
    return {
        "name": method.name,
        "label": method.label,
        "family": method.family,
        "dtype": method.dtype,
        "set_up_seconds": None,
        "lr": None,
        "trials": [],
        "runs": [],
        "warnings": [],
        "step_ms": None,
        "evaluations_per_step": None,
    }


@contextmanager
def _mishaps_recorded_in(row: dict[str, Any]) -> Iterator[None]:
    """A method that fails, or warns, says so in its row instead of on the screen, and the others go on."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        try:
            yield
        except Exception as error:
            row["error"] = f"{type(error).__name__}: {error}".splitlines()[0]
            row |= {"runs": [], "step_ms": None, "evaluations_per_step": None}
    told = [f"{warning.category.__name__}: {warning.message}".splitlines()[0] for warning in caught]
    row["warnings"] = list(dict.fromkeys([*row["warnings"], *told]))
