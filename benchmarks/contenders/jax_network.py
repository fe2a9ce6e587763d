"""A ReLU network's weights on their way to JAX and back, for the contenders that train there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.contenders.contender import Loss


def relu_layers(model: nn.Module, loss: Loss) -> list[nn.Linear]:
    """The linear layers of a ReLU network under cross-entropy.

    Raises:
        ValueError: The model is no ``nn.Sequential`` of Linear and ReLU in turns, or the loss is another.
    """
    if loss is not F.cross_entropy:
        raise ValueError("the JAX contenders are written for cross-entropy.")
    layers = list(model) if isinstance(model, nn.Sequential) else []
    if not layers or not all(
        isinstance(layer, nn.ReLU if number % 2 else nn.Linear) for number, layer in enumerate(layers)
    ):
        raise ValueError(f"this contender is written for ReLU networks, not for {type(model).__name__}.")
    return [layer for layer in layers if isinstance(layer, nn.Linear)]


def to_jax(layers: Sequence[nn.Linear]) -> list[tuple[Any, Any]]:
    """(weight, bias) of each layer as JAX's arrays.

    Raises:
        ImportError: JAX is not installed.
    """
    from jax.numpy import array

    return [(array(layer.weight.detach().numpy()), array(layer.bias.detach().numpy())) for layer in layers]


@torch.no_grad()
def from_jax(layers: Sequence[nn.Linear], arrays: Sequence[tuple[Any, Any]]) -> None:
    """Copies such arrays back."""
    for layer, (weight, bias) in zip(layers, arrays, strict=True):
        layer.weight.copy_(torch.utils.dlpack.from_dlpack(weight))
        layer.bias.copy_(torch.utils.dlpack.from_dlpack(bias))
