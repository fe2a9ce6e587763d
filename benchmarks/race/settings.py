"""A race's numbers, and what of a method it tunes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch.nn.functional as F

from benchmarks.contenders.contender import Loss, Method, Setting


class Choice(NamedTuple):
    """What is tuned of a method.

    Attributes:
        lr: Learning rate.
        directions: K; None for a method that walks no directions.
    """

    lr: float
    directions: int | None = None


@dataclass(frozen=True)
class RaceConfig:
    """The plain numbers of a race.

    Args:
        batch: Examples a step.
        directions: The numbers K that the zeroth-order methods try, ascending.
        eps: ε of the fused methods; the others keep 1e-3, below which their differences drown.
        learning_rates: One a trial, ascending; a method that has a K to choose tries an equal part of them with
            each K, see :func:`choices`.
        trial_seconds: Cap on the training clock of one trial among the sweep's best.
        run_seconds: Cap on the training clock of one run.
        seeds: Of weights, batches and directions.
        tuning_seeds: The sweep's own, an odd number of them.
        targets: Test accuracies to reach, ascending.
        decay_steps: Over which every optimizer's learning rate falls linearly to nothing; None keeps it.
        overrun: A run goes on to this multiple of the time to the last target, so that curves show what
            follows.

    Raises:
        ValueError: The learning rates are not as many for each K.
    """

    batch: int
    directions: tuple[int, ...]
    eps: float
    learning_rates: tuple[float, ...]
    trial_seconds: float
    run_seconds: float
    seeds: tuple[int, ...]
    tuning_seeds: tuple[int, ...]
    targets: tuple[float, ...]
    decay_steps: int | None = None
    overrun: float = 1.3

    def __post_init__(self) -> None:
        if not self.directions or len(self.learning_rates) % len(self.directions):
            raise ValueError(
                f"each K of {self.directions} must get as many of the learning rates, got "
                f"{len(self.learning_rates)} of these; give a multiple of {len(self.directions)}."
            )


def log_uniform(low: float, high: float, count: int, seed: int = 0) -> tuple[float, ...]:
    """Learning rates drawn log-uniformly from [low, high), one from each of ``count`` equal parts, ascending."""
    places = (np.arange(count) + np.random.default_rng(seed).random(count)) / count
    return tuple(float(f"{low * (high / low) ** place:.2g}") for place in places)


def choices(method: Method, config: RaceConfig) -> list[Choice]:
    """What a method's trials are, as many for every method.

    One that has no K to choose tries every learning rate. One that has tries each K with every m-th of them, m
    being the number of K's, from the middle of the first m on.
    """
    if not method.tunes_directions:
        return [Choice(lr, method.directions) for lr in config.learning_rates]
    count = len(config.directions)
    return [
        Choice(lr, directions)
        for directions in config.directions
        for lr in config.learning_rates[(count - 1) // 2 :: count]
    ]


def setting(config: RaceConfig, choice: Choice, seed: int, loss: Loss = F.cross_entropy) -> Setting:
    """What a method is told in a race."""
    return Setting(choice.lr, seed, choice.directions or 1, config.eps, config.decay_steps, loss)
