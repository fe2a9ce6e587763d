"""Asks for a learning rate, trains with half of it, and from there with four times the limit that is met there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from math import inf, isfinite
from statistics import fmean

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

import zo_triton as zo
from benchmarks.race.networks import count_parameters
from benchmarks.rates.networks import Network
from zo_triton.nzk.advice import COVERED

DIRECTIONS = 64
BATCH = 32
TRIAL = 200
"""Steps of a trial at least; half of those of a run that a trial of so many does not vouch for."""

MOMENTA = (0.0, 0.9)

LOOK = 5
"""Steps from one look at the loss over all samples to the next."""

LATE = 20
"""The looks in a run's last so many steps are averaged."""

BEYOND = 100
"""Steps taken from where the run at half the advised rate has led."""

SAMPLES = 128
"""Whose curvature is measured there; few are left there that are not known well, and those few make it."""

ENOUGH = 100.0
"""A run whose loss is so many times what it was has shown what it does."""

FALLEN = 0.5
"""A run converges if its late loss is at most this share of the first."""

GROWN = 1.5
"""A run diverges if its loss is ever so many times what it was, and what the run at half the advised rate has."""

LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"cross_entropy": F.cross_entropy, "mse": F.mse_loss}


@dataclass(frozen=True)
class Row:
    """One network, momentum and way. Losses are those over all samples.

    Attributes:
        network: Its name.
        weights: How many.
        way: weights or activations.
        momentum: b.
        start: η* at the first weights.
        limit: The smallest η* on the way of the trial that held.
        advised: The learning rate that held.
        steps: Of the run at half of it.
        first: Loss at the first weights.
        late: Loss where half the advised rate has led, the mean of the last steps.
        there: η* there.
        calm: The largest loss over ``late`` in further steps at half the advised rate.
        highest: The same at four times ``there``; infinite if it was not finite.
    """

    network: str
    weights: int
    way: str
    momentum: float
    start: float
    limit: float
    advised: float
    steps: int
    first: float
    late: float
    there: float
    calm: float
    highest: float

    @property
    def falls(self) -> bool:
        """Whether half the advised rate brought the loss down at all."""
        return self.late < self.first

    @property
    def converges(self) -> bool:
        """Whether half the advised rate did."""
        return self.late <= FALLEN * self.first

    @property
    def diverges(self) -> bool:
        """Whether four times the limit did, by more than noise can."""
        return self.highest >= GROWN * max(1.0, self.calm)


def measure(network: Network, way: str, momentum: float) -> Row:
    """One row; nothing of it depends on time.

    Args:
        network: Which.
        way: Where it is perturbed.
        momentum: b.
    """
    run = Run(network, way, momentum)
    x, y = network.data()
    trial = max(TRIAL, -(-network.steps // COVERED))
    advice = zo.nzk.advise_lr(run.optimizer, run.model, x, y, network.loss, steps=trial, batch=BATCH)
    half, first = advice.lr / 2, run.loss()
    run.train(half, network.steps - LATE)
    late = fmean(run.losses(half, LATE))
    there = zo.nzk.max_stable_lr_of(run.optimizer, run.model, x[:SAMPLES], network.loss)
    calm, highest = (deepcopy(run).highest(lr, late) / late for lr in (half, 4 * there))
    return Row(
        network.name, count_parameters(run.model), way, momentum, advice.start, advice.limit, advice.lr,
        network.steps, first, late, there, calm, highest,
    )  # fmt: skip


class Run:
    """A network that is trained; the seed is not that of the trials.

    Args:
        network: Which.
        way: Where it is perturbed.
        momentum: b.
    """

    def __init__(self, network: Network, way: str, momentum: float) -> None:
        self.network, self.model = network, network.make(0)
        self.optimizer = zo.ZOSGD(
            self.model.parameters(), 1.0, DIRECTIONS, seed=1, momentum=momentum, perturb=way
        )
        self.draws = np.random.default_rng(1)

    def loss(self) -> float:
        """Over all samples, in eval mode; infinite if it is not finite."""
        x, y = self.network.data()
        self.model.eval()
        with torch.no_grad():
            found = LOSSES[self.network.loss](self.model(x), y).item()
        self.model.train()
        return found if isfinite(found) else inf

    def train(self, lr: float, steps: int) -> None:
        """Steps on batches.

        Raises:
            NonFiniteLossError: A batch's loss is not finite.
        """
        self.optimizer.param_groups[0]["lr"] = lr
        x, y = self.network.data()
        for _ in range(steps):
            batch = self.draws.integers(len(x), size=BATCH)

            def closure(inputs: Tensor = x[batch], targets: Tensor = y[batch]) -> Tensor:
                return LOSSES[self.network.loss](self.model(inputs), targets)

            self.optimizer.step(closure)

    def losses(self, lr: float, steps: int) -> Iterator[float]:
        """The loss at each look; the last one is infinite where a step's is not finite."""
        for _ in range(steps // LOOK):
            try:
                self.train(lr, LOOK)
            except zo.NonFiniteLossError:
                yield inf
                return
            yield self.loss()

    def highest(self, lr: float, loss: float) -> float:
        """The largest loss in :data:`BEYOND` steps, up to where it is :data:`ENOUGH` times ``loss``."""
        found = 0.0
        for each in self.losses(lr, BEYOND):
            found = max(found, each)
            if found > ENOUGH * loss:
                break
        return found
