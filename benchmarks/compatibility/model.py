"""What a model of the table is: how it is made, and the loss that a step would lower."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Loss = Callable[[nn.Module], Tensor]
"""From a module, of whatever dtype, to its loss on fixed inputs."""


@dataclass(frozen=True)
class Model:
    """One row of the table.

    Attributes:
        name: Of the row, unique.
        build: Makes the module, with random weights, and its loss.
        dtype: Of the weights.
    """

    name: str
    build: Callable[[], tuple[nn.Module, Loss]]
    dtype: torch.dtype = torch.float32


def numbers(*shape: int, seed: int = 0) -> Tensor:
    """Fixed standard normal numbers, float32."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def integers(high: int, *shape: int, low: int = 0, seed: int = 0) -> Tensor:
    """Fixed integers of [low, high), int64."""
    return torch.randint(low, high, shape, generator=torch.Generator().manual_seed(seed))


def called(module: nn.Module, inputs: dict[str, Any]) -> Any:
    """The module's output; floating-point inputs come in the dtype of its weights."""
    dtype = next(each.dtype for each in module.parameters() if each.is_floating_point())
    return module(**{name: _cast(value, dtype) for name, value in inputs.items()})


def distance(output: Tensor) -> Tensor:
    """Mean squared distance to fixed numbers: a loss for a model that has none, [] in the output's dtype."""
    return F.mse_loss(output, numbers(*output.shape, seed=1).to(output.dtype))


def _cast(value: Any, dtype: torch.dtype) -> Any:
    if isinstance(value, Tensor):
        return value.to(dtype) if value.is_floating_point() else value
    if isinstance(value, (list, tuple)):
        return type(value)(_cast(each, dtype) for each in value)
    return value
