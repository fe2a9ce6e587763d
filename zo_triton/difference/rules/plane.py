"""Vectors in a plane: length and angle, by how far a point goes across and along."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from zo_triton.difference.registry import rule
from zo_triton.difference.rules.elementwise import of_two

if TYPE_CHECKING:
    from zo_triton.difference.mode import DifferenceMode


def _longer(x: Tensor, dx: Tensor, y: Tensor, dy: Tensor) -> Tensor:
    """The squares' difference over the sum of both lengths; none from zero to zero."""
    lengths = torch.hypot(x, y) + torch.hypot(x + dx, y + dy)
    return (dx * (2 * x + dx) + dy * (2 * y + dy)) / lengths.clamp_min(torch.finfo(lengths.dtype).tiny)


@rule("hypot")
def hypot(mode: DifferenceMode, base: Tensor, input: Tensor, other: Tensor) -> Tensor:
    """A vector's length."""
    return of_two(mode, base, input, other, _longer)


@rule("atan2", "arctan2")
def atan2(mode: DifferenceMode, base: Tensor, input: Tensor, other: Tensor) -> Tensor:
    """The angle between both vectors, a full turn less or more where the way crosses the negative x axis."""

    def turned(y: Tensor, dy: Tensor, x: Tensor, dx: Tensor) -> Tensor:
        angle = torch.atan2(x * dy - y * dx, x * (x + dx) + y * (y + dy))
        end = torch.atan2(y + dy, x + dx)
        return angle + 2 * math.pi * torch.round((end - base - angle) / (2 * math.pi))

    return of_two(mode, base, input, other, turned)
