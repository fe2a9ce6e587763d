"""The networks that are trained here, each drawn from its seed alone."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import prod, sqrt

import torch
from torch import nn

WIDTHS = (4, 8)
"""Channels of the convolutional network: few weights, because zeroth-order steps grow with their number."""

POOLED = 8
"""Larger feature maps than this are averaged to so many rows and columns."""


def make_mlp(sizes: Sequence[int], seed: int, activation: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    """A network of linear layers with torch's usual initialisation, drawn from its own generator.

    Args:
        sizes: Widths from input to output, at least two.
        seed: Of the weights.
        activation: After every layer but the last.

    Raises:
        ValueError: Fewer than two sizes.
    """
    if len(sizes) < 2:
        raise ValueError(f"a network needs an input and an output size, got {tuple(sizes)}.")
    generator = torch.Generator().manual_seed(seed)
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        linear = nn.utils.skip_init(nn.Linear, inputs, outputs)
        layers += [_draw(linear, generator), activation()]
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


def make_cnn(shape: tuple[int, ...], classes: int, seed: int) -> nn.Sequential:
    """Two strided convolutions, an average over parts of a large image and a linear layer, on flattened images.

    Args:
        shape: (channels, height, width) of an image.
        classes: How many.
        seed: Of the weights, drawn as torch draws them.

    Returns:
        From [N, channels·height·width] to [N, classes]; 4 330 weights for MNIST.
    """
    channels, height, width = shape
    first, second = WIDTHS
    size = -(-height // 4), -(-width // 4)
    pooled = min(POOLED, size[0]), min(POOLED, size[1])
    generator = torch.Generator().manual_seed(seed)

    # Drawn in this order.
    wide = _draw(nn.utils.skip_init(nn.Conv2d, channels, first, 5, stride=2, padding=2), generator)
    narrow = _draw(nn.utils.skip_init(nn.Conv2d, first, second, 3, stride=2, padding=1), generator)
    average = [] if pooled == size else [nn.AdaptiveAvgPool2d(pooled)]
    last = _draw(nn.utils.skip_init(nn.Linear, second * prod(pooled), classes), generator)
    return nn.Sequential(
        nn.Unflatten(1, shape), wide, nn.ReLU(), narrow, nn.ReLU(), *average, nn.Flatten(), last
    )


def count_parameters(model: nn.Module) -> int:
    """d, the number of trained weights."""
    return sum(parameter.numel() for parameter in model.parameters())


def _draw(layer: nn.Conv2d | nn.Linear, generator: torch.Generator) -> nn.Module:
    """A layer whose memory is not yet filled, with weights and biases as torch draws them."""
    bound = 1 / sqrt(layer.weight[0].numel())
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.uniform_(-bound, bound, generator=generator)
    return layer
