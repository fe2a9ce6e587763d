"""A model small enough for the slowest engine, its data, and bit patterns to compare."""

from collections.abc import Callable, Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

INPUTS, HIDDEN, CLASSES, SAMPLES = 5, 7, 3, 11
"""All prime, so that no tile fits; 66 weights in four tensors."""


@pytest.fixture
def model() -> nn.Module:
    generator = torch.Generator().manual_seed(5)
    mlp = nn.Sequential(nn.Linear(INPUTS, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, CLASSES))
    with torch.no_grad():
        for param in mlp.parameters():
            param.copy_(0.7 * torch.randn(param.shape, generator=generator))
    return mlp


@pytest.fixture
def loss_of() -> Callable[[nn.Module], Tensor]:
    generator = torch.Generator().manual_seed(6)
    x = torch.randn(SAMPLES, INPUTS, generator=generator)
    y = torch.randint(CLASSES, (SAMPLES,), generator=generator)
    return lambda mlp: F.cross_entropy(mlp(x), y)


@pytest.fixture
def bits() -> Callable[[Sequence[Tensor]], list[bytes]]:
    """Bit patterns of tensors: tells -0.0 from 0.0, and one NaN from another."""

    def patterns(tensors: Sequence[Tensor]) -> list[bytes]:
        return [tensor.detach().reshape(-1).view(torch.uint8).numpy().tobytes() for tensor in tensors]

    return patterns
