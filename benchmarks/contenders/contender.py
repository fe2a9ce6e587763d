"""What a race compares: a training method behind one small interface, and the networks it trains."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import pairwise
from math import sqrt
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from zo_triton import ZOSGD, FusedTrainer, Ranks

Loss = Callable[[Tensor, Tensor], Tensor]
"""From (output, target) of a batch to its mean loss."""


class LeftOutError(Exception):
    """Something optional is not here; the message says what. No failure."""


@dataclass(frozen=True)
class Setting:
    """What every contender is told.

    Args:
        lr: Learning rate.
        seed: Of the directions.
        directions: K, for those who walk any.
        eps: Smoothing radius ε of the fused methods; the others have one of their own, below which their
            differences would drown in rounding.
        decay_steps: Over which the learning rate falls linearly to nothing; None keeps it.
        loss: What is minimised.
        ranks: Share the measuring of a step; only this project's own methods can.
    """

    lr: float
    seed: int = 0
    directions: int = 1
    eps: float = 1e-4
    decay_steps: int | None = None
    loss: Loss = F.cross_entropy
    ranks: Ranks | None = None


class Contender:
    """A training method at work on one model."""

    evaluations_per_step: int
    """Forward passes of the batch that a step costs; a backward pass counts as two."""

    def step(self, x: Tensor, y: Tensor) -> float:
        """Trains on one batch, x [N, features] float32 and y [N], and returns a training loss."""
        raise NotImplementedError

    def prepare(self, x: Tensor, y: Tensor) -> None:
        """Compiles for such batches, off the clock; trains nothing."""

    def replayable(self) -> ZOSGD | FusedTrainer | None:
        """What a replay log can be attached to; None where steps can't be replayed."""
        return None

    def state(self) -> Any:
        """What it remembers beside the weights, while its learning rate is kept: dicts of tensors and numbers."""
        raise NotImplementedError(f"{type(self).__name__} can't be saved.")

    def load_state(self, state: Any) -> None:
        """Takes over what :meth:`state` gave."""
        raise NotImplementedError(f"{type(self).__name__} can't be restored.")

    def write_weights(self) -> None:
        """Brings the model's parameters up to date, off the clock: for methods that train a copy elsewhere."""


Build = Callable[[nn.Module, Setting], Contender]
"""Makes a contender that trains the model in place; a ValueError says why it can't."""


@dataclass(frozen=True)
class Method:
    """A named way to build a contender.

    Args:
        name: Key in records and on the command line.
        label: How reports call it.
        family: ``fused`` (this project), ``zeroth`` (other forward-only methods), ``first`` (backprop) or
            ``inference``, which trains nothing.
        build: Makes the contender.
        dtype: What its evaluations compute in.
        needs: Packages beyond this project's own.
    """

    name: str
    label: str
    family: str
    build: Build
    dtype: str = "float32"
    needs: tuple[str, ...] = ()

    @property
    def missing(self) -> tuple[str, ...]:
        """The packages it needs that are not installed."""
        return tuple(package for package in self.needs if find_spec(package) is None)


def make_mlp(sizes: Sequence[int], seed: int) -> nn.Sequential:
    """A ReLU network with torch's usual initialisation, drawn from its own generator.

    Args:
        sizes: Widths from input to output, at least two.
        seed: Of the weights.

    Returns:
        Linear and ReLU layers; the last layer is linear.

    Raises:
        ValueError: Fewer than two sizes.
    """
    if len(sizes) < 2:
        raise ValueError(f"a network needs an input and an output size, got {tuple(sizes)}.")
    generator = torch.Generator().manual_seed(seed)
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        linear = nn.utils.skip_init(nn.Linear, inputs, outputs)
        with torch.no_grad():
            for parameter in linear.parameters():
                parameter.uniform_(-1 / sqrt(inputs), 1 / sqrt(inputs), generator=generator)
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def make_lenet(seed: int) -> nn.Sequential:
    """LeNet-5 with ReLU and max pooling on flattened 28 × 28 images: [N, 784] to [N, 10], 61 706 weights.

    Source: LeCun, Bottou, Bengio and Haffner, "Gradient-based learning applied to document recognition",
    Proceedings of the IEEE 86(11), 1998, Fig. 2, whose squashing and subsampling are replaced as usual today.

    Args:
        seed: Of the weights, drawn as torch draws them; torch's own generator is left as it was.
    """
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Unflatten(1, (1, 28, 28)),
            nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
            nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10),
        )  # fmt: skip


def count_parameters(model: nn.Module) -> int:
    """d, the number of trained weights."""
    return sum(parameter.numel() for parameter in model.parameters())


def falling_rate(optimizer: torch.optim.Optimizer, steps: int | None) -> Callable[[], None]:
    """What to call after each step so that the learning rate falls linearly to nothing; None keeps the rate."""
    if steps is None:
        return lambda: None
    return torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, steps).step
