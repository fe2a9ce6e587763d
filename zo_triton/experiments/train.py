"""One training run, step by step, for the command line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace

import zo_triton as zo
from zo_triton.experiments.methods import find_method
from zo_triton.experiments.race import batches, evaluate, setting
from zo_triton.experiments.races import CONFIG, DEFAULT_RATES, probe
from zo_triton.experiments.tasks import find_task

LARGE = 10_000
"""From so many training examples on, accuracy is looked at less often."""


@dataclass(frozen=True)
class Progress:
    """Where a run stands: steps done, the step's loss, and test accuracy as of the latest look."""

    step: int
    loss: float
    accuracy: float


@dataclass(frozen=True)
class Run:
    """A training run that is about to start.

    Attributes:
        steps: How many it takes.
        note: What a reader must know: other data than the task says, a learning rate beyond the stable one.
        progress: Trains, and yields after every step.
    """

    steps: int
    note: str
    progress: Iterator[Progress]


def train(
    task: str,
    method: str = "zo-adam",
    lr: float | None = None,
    directions: int | None = None,
    seed: int = 0,
    steps: int | None = None,
    engine: str | None = None,
) -> Run:
    """Prepares a run.

    Args:
        task: A name in ``zo_triton.experiments.tasks.TASKS``.
        method: A name in ``zo_triton.experiments.races.DEFAULT_RATES``.
        lr: Learning rate; None takes the task's for the method.
        directions: K; None takes the task's.
        seed: Of weights, batches and directions.
        steps: How many; None takes the task's.
        engine: reference, cpu or triton; None lets the device decide.

    Raises:
        ValueError: A name is unknown, a number out of range or the data damaged; raised before the first step.
    """
    found = find_task(task)
    steps = found.steps if steps is None else steps
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}.")
    if lr is not None and not 0 <= lr < float("inf"):
        raise ValueError(f"lr must be finite and not negative, got {lr}.")
    if not 0 <= seed < 2**63:
        raise ValueError(f"seed must be in [0, 2**63), got {seed}.")
    config = replace(CONFIG, directions=found.directions if directions is None else directions)
    if config.directions < 1:
        raise ValueError(f"directions must be at least 1, got {directions}.")
    if method not in DEFAULT_RATES:
        raise ValueError(f"unknown method {method!r}; choose one of {tuple(DEFAULT_RATES)}.")
    build = find_method(method).build
    # An unknown engine is told before the data is read.
    with nullcontext() if engine is None else zo.use_engine(engine):
        prepared = found.prepare()
    rate = {**DEFAULT_RATES, **dict(found.rates)}[method] if lr is None else lr

    notes = [prepared.note]
    if method == "zo-sgd" and rate > 0:
        stability = probe(prepared.make_model(seed), prepared.data, rate, config)
        notes.append(f"{stability}" if stability.is_beyond else "")

    def progress() -> Iterator[Progress]:
        model = prepared.make_model(seed)
        contender = build(model, setting(config, rate, seed, prepared.loss))
        source = batches(prepared, found.batch, seed)
        every = 10 if len(prepared.data.train_x) < LARGE else 50
        accuracy = evaluate(model, prepared)[1]
        with nullcontext() if engine is None else zo.use_engine(engine):
            for step in range(1, steps + 1):
                loss = contender.step(*next(source))
                if step % every == 0 or step == steps:
                    accuracy = evaluate(model, prepared)[1]
                yield Progress(step, loss, accuracy)

    return Run(steps, "\n".join(filter(None, notes)), progress())
