"""What operands are made of: random numbers, or memory that a compiler only asks for its layout."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

EPSILON = (1e-3, -0.9e-3)
"""sε of a direction's sides; of unequal length, so that no kernel gets away with mixing them up."""


class Operands(Protocol):
    """Makes the tensors that a case asks for.

    Attributes:
        device: Where they lie.
    """

    device: torch.device

    def normal(self, *shape: int, scale: float = 1.0, dtype: torch.dtype = torch.float32) -> Tensor:
        """Normally distributed around 0 with this deviation."""

    def integers(self, below: int, *shape: int) -> Tensor:
        """int64 in [0, below)."""

    def unwritten(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Memory for a result; what a kernel leaves out must show."""


class RandomOperands:
    """Random operands on a device, and results full of NaN.

    Args:
        device: Where they lie and are drawn.
        seed: Of a generator of their own.
    """

    def __init__(self, device: torch.device | str, seed: int) -> None:
        self.device = torch.device(device)
        self.generator = torch.Generator(self.device).manual_seed(seed)

    def normal(self, *shape: int, scale: float = 1.0, dtype: torch.dtype = torch.float32) -> Tensor:
        """As :meth:`Operands.normal`."""
        drawn = torch.randn(shape, generator=self.generator, dtype=torch.float32, device=self.device)
        return drawn.mul_(scale).to(dtype)

    def integers(self, below: int, *shape: int) -> Tensor:
        """As :meth:`Operands.integers`."""
        return torch.randint(below, shape, generator=self.generator, dtype=torch.int64, device=self.device)

    def unwritten(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """As :meth:`Operands.unwritten`."""
        return torch.full(shape, torch.nan, dtype=dtype, device=self.device)


class BlankOperands:
    """Zeros on the CPU, for calls that are compiled and not run: most of their pages are never touched."""

    device = torch.device("cpu")

    def normal(self, *shape: int, scale: float = 1.0, dtype: torch.dtype = torch.float32) -> Tensor:
        """As :meth:`Operands.normal`, but zeros."""
        return torch.zeros(shape, dtype=dtype, device="cpu")

    def integers(self, below: int, *shape: int) -> Tensor:
        """As :meth:`Operands.integers`, but zeros."""
        return torch.zeros(shape, dtype=torch.int64, device="cpu")

    def unwritten(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """As :meth:`Operands.unwritten`, but zeros."""
        return torch.zeros(shape, dtype=dtype, device="cpu")


def signed_eps(operands: Operands, sides: int, directions: int) -> Tensor:
    """sε of every evaluation, [sides · directions]."""
    return torch.tensor(EPSILON[:sides], dtype=torch.float32, device=operands.device).repeat(directions)
