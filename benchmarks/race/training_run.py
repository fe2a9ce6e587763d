"""One method trains one network once, and what each second bought is written down."""

from __future__ import annotations

import math
from itertools import islice
from statistics import median
from typing import Any

from torch import nn

from benchmarks.contenders.contender import Contender, Method
from benchmarks.race.clocks import HostClock, RaceClock
from benchmarks.race.loaded_task import LoadedTask
from benchmarks.race.settings import Choice, RaceConfig, setting
from benchmarks.timing import round_digits


def run(
    method: Method,
    task: LoadedTask,
    config: RaceConfig,
    seed: int,
    choice: Choice,
    seconds: float,
    clock: RaceClock | None = None,
) -> dict[str, Any]:
    """One training run, until past the last target or a cap.

    Args:
        method: Who trains.
        task: What is trained, and where.
        config: The race's numbers.
        seed: Of weights, batches and directions.
        choice: Learning rate and K.
        seconds: The cap on the clock.
        clock: None takes the host's.

    Returns:
        ``curve``: points [step, seconds, evaluations, training loss, test accuracy];
        ``reached``: from each target to its first checkpoint or None; ``diverged``; ``step_ms``; ``cpu_seconds`` of
        all steps and threads.
    """
    clock = HostClock() if clock is None else clock
    model, contender = build(method, task, config, seed, choice)
    with clock.threads():
        contender.prepare(*next(task.batches(config.batch, seed)))
    source = task.batches(config.batch, seed)
    reached: dict[str, Any] = {f"{target:g}": None for target in config.targets}
    times: list[float] = []
    spent, cpu_spent, stop, diverged = 0.0, 0.0, seconds, False
    with clock.quiet():
        curve = [_point(0, 0.0, 0, *task.evaluate(model))]
        while spent < stop:
            steps = clock.steps_to_look(len(times))
            block = clock.take(contender.step, islice(source, steps), stop - spent)
            times += block.seconds
            spent += sum(block.seconds)
            cpu_spent += block.cpu_seconds
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
                        "cpu_seconds": round_digits(cpu_spent),
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
        "cpu_seconds": round_digits(cpu_spent),
        "evaluations_per_step": contender.evaluations_per_step,
    }


def build(
    method: Method, task: LoadedTask, config: RaceConfig, seed: int, choice: Choice
) -> tuple[nn.Module, Contender]:
    """A network with its first weights, where the data is, and who will train it."""
    model = task.make_model(seed).to(task.device)
    return model, method.build(model, setting(config, choice, seed, task.loss))


def _point(step: int, seconds: float, evaluations: int, loss: float, accuracy: float) -> list[float]:
    """A point of a curve."""
    return [step, round_digits(seconds), evaluations, round_digits(loss), round_digits(accuracy)]
