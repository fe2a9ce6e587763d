"""One training run, step by step, for the command line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace

import zo_triton as zo
from zo_triton.data import digits
from zo_triton.experiments.contender import make_mlp
from zo_triton.experiments.digits import CONFIG, DEFAULT_RATES, find_method
from zo_triton.experiments.race import batches, evaluate

TASKS = ("digits",)


@dataclass(frozen=True)
class Progress:
    """Where a run stands: steps done, the step's loss, and test accuracy as of the latest look."""

    step: int
    loss: float
    accuracy: float


def train(
    task: str,
    method: str = "zo-adam",
    lr: float | None = None,
    directions: int | None = None,
    seed: int = 0,
    steps: int = 500,
    engine: str | None = None,
) -> Iterator[Progress]:
    """Trains and yields after every step.

    Args:
        task: One of :data:`TASKS`.
        method: A name from ``zo_triton.experiments.digits.methods``.
        lr: Learning rate; None takes the method's default.
        directions: K; None takes the task's.
        seed: Of weights, batches and directions.
        steps: How many.
        engine: reference, cpu or triton; None lets the device decide.

    Raises:
        ValueError: A name is unknown or a number out of range; raised before the first step.
    """
    if task not in TASKS:
        raise ValueError(f"unknown task {task!r}; choose one of {TASKS}.")
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}.")
    if lr is not None and not 0 <= lr < float("inf"):
        raise ValueError(f"lr must be finite and not negative, got {lr}.")
    if not 0 <= seed < 2**63:
        raise ValueError(f"seed must be in [0, 2**63), got {seed}.")
    config = CONFIG if directions is None else replace(CONFIG, directions=directions)
    if config.directions < 1:
        raise ValueError(f"directions must be at least 1, got {directions}.")
    chosen = find_method(method, config)
    model = make_mlp(config.sizes, seed)
    contender = chosen.build(model, DEFAULT_RATES[method] if lr is None else lr, seed)
    data = digits().standardized()
    source = batches(data, config.batch, seed)
    accuracy = evaluate(model, data)[1]
    with nullcontext() if engine is None else zo.use_engine(engine):
        for step in range(1, steps + 1):
            loss = contender.step(*next(source))
            if step % 10 == 0 or step == steps:
                accuracy = evaluate(model, data)[1]
            yield Progress(step, loss, accuracy)
