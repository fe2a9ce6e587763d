"""One run of those by which a learning rate is advised: it goes on as long as the rate holds."""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from math import inf, isfinite
from statistics import fmean

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zo_triton.nzk.limit import max_stable_lr_of
from zo_triton.optim import ZOSGD, NonFiniteLossError

MARGIN = 2.0
"""A learning rate holds as long as η* is so many times larger, and no step's loss so many times the first one's."""

LOST = 0.25
"""It does not where a window's mean loss comes to be above the lowest one's by this share of the first loss."""

WINDOW = 20
"""Steps of a window at least; a tenth of the trial's if that is more."""


class Trial:
    """A run at one learning rate.

    Attributes:
        held: Whether η* was always far enough above it and the loss kept what it had gained.
        limit: The smallest η* met.
        first: Loss of the first step.
        last: Mean loss of the last window of steps.

    Args:
        model: A copy, which is trained.
        optimizer: Trains it.
        lr: The learning rate.
        steps: At most.
    """

    def __init__(self, model: nn.Module, optimizer: ZOSGD, lr: float, steps: int) -> None:
        self.model, self.optimizer, self.lr, self.steps = model, optimizer, lr, steps
        optimizer.param_groups[0]["lr"] = lr
        self.limit = self.first = self._latest = self._lowest = inf
        self._window: deque[float] = deque(maxlen=max(WINDOW, steps // 10))

    @property
    def last(self) -> float:
        """Of fewer steps where there were no more."""
        return fmean(self._window)

    @property
    def held(self) -> bool:
        """So far; a window that is not full yet tells nothing."""
        return (
            self.limit >= MARGIN * self.lr
            and self._latest <= MARGIN * self.first < inf
            and self.last <= self._lowest + LOST * self.first
        )

    def run(self, x: Tensor, y: Tensor, loss: str, batch: int, samples: int, seed: int) -> None:
        """Trains as long as the learning rate holds; η* is measured after 1, 2, 4, … steps and at the end.

        Args:
            x: Samples [n, …].
            y: Their targets.
            loss: One of :data:`zo_triton.nzk.probe.LOSSES`.
            batch: Samples of a step.
            samples: Of x, the first, whose curvature is measured.
            seed: Of the batches.
        """
        generator = torch.Generator("cpu").manual_seed(seed)
        for step in range(1, self.steps + 1):
            drawn = torch.randint(len(x), (batch,), generator=generator, dtype=torch.int64, device="cpu").to(
                x.device
            )
            self._note(self._step(x[drawn], y[drawn], loss))
            if self.held and (step & (step - 1) == 0 or step == self.steps):
                self._follow(x[:samples], loss)
            if not self.held:
                return

    def check_first(self) -> None:
        """Refuses a first loss beside which no other can be told to have grown; it knows no learning rate.

        Raises:
            ValueError: It is 0, or not finite.
        """
        if self.first == 0:
            raise ValueError(
                "the loss of the first step is 0 already, so there is nothing to learn; pass samples that the "
                "model does not fit yet, or ask before it is trained."
            )
        if not isfinite(self.first):
            raise ValueError(
                "the loss of the first step is not finite, whatever the learning rate; look at the model's "
                "weights and at y, and lower the optimizer's eps."
            )

    def _note(self, loss: float) -> None:
        """Takes a step's loss into account."""
        if not self._window:
            self.first = loss
        self._latest = loss
        self._window.append(loss)
        if len(self._window) == self._window.maxlen:
            self._lowest = min(self._lowest, self.last)

    def _follow(self, x: Tensor, loss: str) -> None:
        """Takes η* at the present weights into account; a step may have left none."""
        try:
            self.limit = min(self.limit, max_stable_lr_of(self.optimizer, self.model, x, loss))
        except NonFiniteLossError:
            self._latest = inf

    def _step(self, x: Tensor, y: Tensor, loss: str) -> float:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # directions left out, by a run that diverges
            try:
                return self.optimizer.step(lambda: _loss(self.model(x), y, loss))
            except NonFiniteLossError:
                return inf


def _loss(outputs: Tensor, y: Tensor, loss: str) -> Tensor:
    if loss == "cross_entropy":
        return F.cross_entropy(outputs, y)
    if loss == "mse":
        return F.mse_loss(outputs, y)
    return F.mse_loss(outputs, y, reduction="sum") / (2 * len(y))


@contextmanager
def seeded(seed: int, model: nn.Module) -> Iterator[None]:
    """Begins torch's own generators at the seed, and puts them back where they were."""
    devices = sorted({tensor.device.index for tensor in model.parameters() if tensor.is_cuda})
    with torch.random.fork_rng(devices):
        for generator in (torch.default_generator, *(torch.cuda.default_generators[i] for i in devices)):
            generator.manual_seed(seed)
        yield
