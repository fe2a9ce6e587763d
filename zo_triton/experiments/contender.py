"""What a race compares: a training method behind one small interface, and the networks it trains."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import sqrt
from typing import Protocol

import torch
from torch import Tensor, nn


class Contender(Protocol):
    """A training method at work on one model."""

    evaluations_per_step: int
    """Forward passes of the batch that a step costs; a backward pass counts as two."""

    def step(self, x: Tensor, y: Tensor) -> float:
        """Trains on one batch, x [N, features] float32 and y [N] int64, and returns a training loss."""
        ...


Build = Callable[[nn.Module, float, int], Contender]
"""From (model, learning rate, seed) to a contender that trains that model in place."""


@dataclass(frozen=True)
class Method:
    """A named way to build a contender.

    Args:
        name: Key in records and on the command line.
        label: How reports call it.
        family: ``fused`` (this project), ``zeroth`` (other forward-only methods) or ``first`` (backprop).
        build: Makes the contender.
        dtype: What its evaluations compute in.
    """

    name: str
    label: str
    family: str
    build: Build
    dtype: str = "float32"


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
