"""Asks for a learning rate, trains with half of it, and with four times the limit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import zo_triton as zo
from benchmarks.race.networks import count_parameters
from benchmarks.rates.networks import Network

DIRECTIONS = 64
BATCH = 32
TRIAL = 200
"""Steps of a trial."""

MOMENTA = (0.0, 0.9)

LATE = 20
"""The last so many steps are averaged."""

ENOUGH = 100.0
"""A run whose loss is so many times its first has shown what it does."""

FALLEN = 0.5
"""A run converges if its late loss is at most this share of the first."""

GROWN = 1.5
"""A run diverges if its loss is ever so many times the first."""

LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"cross_entropy": F.cross_entropy, "mse": F.mse_loss}


@dataclass(frozen=True)
class Row:
    """One network, momentum and way.

    Attributes:
        network: Its name.
        weights: How many.
        way: weights or activations.
        momentum: b.
        start: η* at the first weights.
        limit: The smallest η* on the way.
        advised: The learning rate that held.
        steps: Of the runs at half of it and, at most, at four times the limit.
        first: Loss of the first step.
        late: Mean loss of the last steps at half the advised rate.
        highest: The largest loss over the first, at four times the limit; infinite if it was not finite.
        earlier: Whether the advice was that of an earlier rule.
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
    highest: float
    earlier: bool = False

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
        """Whether four times the limit did."""
        return self.highest >= GROWN


def measure(network: Network, way: str, momentum: float) -> Row:
    """One row; nothing of it depends on time.

    Args:
        network: Which.
        way: Where it is perturbed.
        momentum: b.
    """
    (x, y), steps = network.data(), network.steps
    model, optimizer = _fresh(network, way, momentum, 1.0)
    advice = zo.nzk.advise_lr(optimizer, model, x, y, network.loss, steps=TRIAL, batch=BATCH)
    half = _losses(network, way, momentum, advice.lr / 2, steps)
    above = _losses(network, way, momentum, 4 * advice.limit, steps)
    return Row(
        network.name, count_parameters(model), way, momentum, advice.start, advice.limit, advice.lr, steps, half[0],
        sum(half[-LATE:]) / len(half[-LATE:]), max(above) / half[0],
    )  # fmt: skip


def _fresh(network: Network, way: str, momentum: float, lr: float) -> tuple[nn.Module, zo.ZOSGD]:
    model = network.make(0)
    return model, zo.ZOSGD(model.parameters(), lr, DIRECTIONS, momentum=momentum, perturb=way)


def _losses(network: Network, way: str, momentum: float, lr: float, steps: int) -> list[float]:
    """Of a run's steps, up to where it has shown what it does; the seed is not that of the trials."""
    (x, y), loss = network.data(), LOSSES[network.loss]
    model, optimizer = _fresh(network, way, momentum, lr)
    generator = torch.Generator().manual_seed(1)
    optimizer.seed = 1
    found: list[float] = []
    for _ in range(steps):
        batch = torch.randint(len(x), (BATCH,), generator=generator)

        def closure(inputs: Tensor = x[batch], targets: Tensor = y[batch]) -> Tensor:
            return loss(model(inputs), targets)

        try:
            found.append(optimizer.step(closure))
        except zo.NonFiniteLossError:
            return [*found, inf]
        if found[-1] > ENOUGH * found[0]:
            break
    return found
