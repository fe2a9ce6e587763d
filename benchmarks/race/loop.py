"""Trains several methods on the same batches from the same weights and records what each second bought.

Fairness, which decides such a comparison: every method gets the same sweep (same grid, same number of trials,
same cap on the clock, on a validation split), its clock runs during training steps only, compilation and
warm-up happen before it, and the methods take turns seed by seed so that a busy machine slows them all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from statistics import median
from time import perf_counter, sleep
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.contenders.contender import Loss, Method, Setting
from benchmarks.race.tasks import LoadedTask
from benchmarks.timing import round_digits, threads

Say = Callable[[str], None]

FINALISTS = 3
"""Learning rates that the sweep tries with all of its seeds."""

REST_SECONDS = 0.1
"""Before each run: torch's threads, which spin on for 20 ms after the method before, go to sleep."""

LOSS_EXAMPLES = 5000
"""Of the training set, its first: so many tell how training goes, and 60 000 take longer than the steps between."""

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


def batches(task: LoadedTask, size: int, seed: int, skip: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
    """Shuffled batches of inputs and targets without end; the same seed gives the same ones to every method.

    The first ``skip`` of them are passed over without being formed.
    """
    generator = np.random.default_rng(seed)
    x = torch.from_numpy(task.data.train_x)
    y = task.target_of(torch.from_numpy(task.data.train_y))
    while True:
        order = torch.from_numpy(generator.permutation(len(x)))
        for rows in order.split(size):
            if len(rows) == size and skip > 0:
                skip -= 1
            elif len(rows) == size:
                yield x[rows], y[rows]


@torch.no_grad()
def evaluate(model: nn.Module, task: LoadedTask) -> tuple[float, float]:
    """(mean loss of at most :data:`LOSS_EXAMPLES` training examples, test accuracy).

    A single output tells two classes apart by its sign.
    """
    data = task.data
    x, y = (torch.from_numpy(each[:LOSS_EXAMPLES]) for each in (data.train_x, data.train_y))
    found = task.loss(model(x), task.target_of(y))
    output = model(torch.from_numpy(data.test_x))
    classes = (output[:, 0] > 0).long() if output.shape[1] == 1 else output.argmax(1)
    return found.item(), (classes == torch.from_numpy(data.test_y)).float().mean().item()


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
) -> dict[str, Any]:
    """One training run, until past the last target or a cap.

    Batches and accuracies are computed on one thread: torch's others would spin for some milliseconds after
    them, into the next step's time. The step itself has all threads.

    Returns:
        ``curve``: points [step, seconds, evaluations, training loss, test accuracy];
        ``reached``: from each target to its first checkpoint or None; ``diverged``; ``step_ms``.
    """
    sleep(REST_SECONDS)
    model = task.make_model(seed)
    contender = method.build(model, setting(config, lr, seed, task.loss))
    contender.prepare(*next(batches(task, config.batch, seed)))
    source = batches(task, config.batch, seed)
    count = torch.get_num_threads()
    with threads(1):
        curve = [[0, 0.0, 0, *evaluate(model, task)]]
    reached: dict[str, Any] = {f"{target:g}": None for target in config.targets}
    clock, step, checkpoint, stop = 0.0, 0, FIRST_CHECKPOINTS, seconds
    times: list[float] = []
    diverged = False
    with threads(1):
        while clock < stop and not diverged:
            x, y = next(source)
            with threads(count):
                start = perf_counter()
                diverged = not _finite_step(contender.step, x, y)
                times.append(perf_counter() - start)
            clock += times[-1]
            step += 1
            if step < checkpoint and clock < stop:
                continue
            checkpoint = step + max(FIRST_CHECKPOINTS, step // 50)
            contender.write_weights()
            loss, accuracy = evaluate(model, task)
            diverged = diverged or not math.isfinite(loss)
            if diverged:
                break
            evaluations = step * contender.evaluations_per_step
            curve.append([step, round_digits(clock), evaluations, round_digits(loss), round_digits(accuracy)])
            for target in config.targets:
                if accuracy >= target and reached[f"{target:g}"] is None:
                    reached[f"{target:g}"] = {
                        "seconds": round_digits(clock),
                        "steps": step,
                        "evaluations": evaluations,
                    }
                    if target == config.targets[-1]:
                        stop = min(seconds, config.overrun * clock)
    return {
        "seed": seed,
        "curve": curve,
        "reached": reached,
        "diverged": diverged,
        "step_ms": round_digits(1000 * median(times)),
        "evaluations_per_step": contender.evaluations_per_step,
    }


def tune(method: Method, task: LoadedTask, config: RaceConfig) -> tuple[float, list[dict[str, Any]]]:
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
    trials = {
        lr: _trial([_attempt(method, task, config, first, lr, config.trial_seconds / 4)], lr)
        for lr in config.learning_rates
    }
    finalists = sorted(trials, key=lambda lr: _rank(trials[lr]))[:FINALISTS]
    for lr in finalists:
        attempts = [
            _attempt(method, task, config, seed, lr, config.trial_seconds) for seed in (first, *others)
        ]
        trials[lr] = _trial(attempts, lr)
    return min(finalists, key=lambda lr: _rank(trials[lr])), list(trials.values())


def _attempt(
    method: Method, task: LoadedTask, config: RaceConfig, seed: int, lr: float, seconds: float
) -> dict[str, Any]:
    validation = replace(task, data=task.data.validation(seed=config.tuning_seeds[0]))
    return run(method, validation, config, seed, lr, seconds)


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


def warm_up(method: Method, task: LoadedTask, config: RaceConfig) -> float:
    """Two steps on throw-away weights, where compilation happens; returns the seconds they took."""
    contender = method.build(task.make_model(0), setting(config, config.learning_rates[0], 0, task.loss))
    source = batches(task, config.batch, 0)
    start = perf_counter()
    contender.prepare(*next(source))
    for _ in range(2):
        contender.step(*next(source))
    return perf_counter() - start


def race(methods: Sequence[Method], task: LoadedTask, config: RaceConfig, say: Say) -> list[dict[str, Any]]:
    """Warm-up and sweep for each method, then every seed for each method in turns.

    Returns:
        One row a method, as a record's section ``race`` holds them; with ``error`` where it failed.
    """
    rows = {method.name: _row(method) for method in methods}
    for method in methods:
        say(f"tuning {method.label}")
        row = rows[method.name]
        with _errors_recorded_in(row):
            row["set_up_seconds"] = round_digits(warm_up(method, task, config), 3)
            row["lr"], row["trials"] = tune(method, task, config)
    for turn, seed in enumerate(config.seeds):
        # Another method starts each turn: none always runs on a processor that the same rival has heated.
        shift = turn % len(methods)
        for method in [*methods[shift:], *methods[:shift]]:
            row = rows[method.name]
            if "error" in row:
                continue
            say(f"seed {seed}: {method.label}")
            with _errors_recorded_in(row):
                row["runs"].append(run(method, task, config, seed, row["lr"], config.run_seconds))
    for row in rows.values():
        if row["runs"]:
            row["step_ms"] = round_digits(median(one["step_ms"] for one in row["runs"]))
            row["evaluations_per_step"] = row["runs"][0]["evaluations_per_step"]
    return list(rows.values())


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
        "step_ms": None,
        "evaluations_per_step": None,
    }


@contextmanager
def _errors_recorded_in(row: dict[str, Any]) -> Iterator[None]:
    """A method that fails says so in its row, and the others go on."""
    try:
        yield
    except Exception as error:
        row["error"] = f"{type(error).__name__}: {error}".splitlines()[0]
        row["runs"] = []


def _finite_step(step: Callable[[Tensor, Tensor], float], x: Tensor, y: Tensor) -> bool:
    """Runs a step; False if its loss or differences are not finite, which the fused methods refuse."""
    try:
        return math.isfinite(step(x, y))
    except ValueError as error:
        if str(error).startswith("the loss is "):
            return False
        raise
