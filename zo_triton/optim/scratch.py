"""The memory that an update needs for a while, made before anything moves."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class Scratch:
    """Room for one tensor, the largest, in a place that is used again and again.

    Args:
        tensors: Any of them may be asked for, in its own dtype or in float32.
        places: How many are in use at once.
    """

    def __init__(self, tensors: Sequence[Tensor], places: int = 1) -> None:
        sizes = [tensor.numel() * max(4, tensor.dtype.itemsize) for tensor in tensors]
        size = -(-max(sizes, default=0) // 8) * 8
        device = tensors[0].device if tensors else "cpu"
        self._bytes = torch.empty(places, size, dtype=torch.uint8, device=device)

    def like(self, tensor: Tensor, dtype: torch.dtype, place: int = 0) -> Tensor:
        """A tensor of this one's shape that holds anything; the next one in its place overwrites it."""
        size = tensor.numel() * dtype.itemsize
        return self._bytes[place, :size].view(dtype).view(tensor.shape)

    def product(self, tensor: Tensor, factor: float | Tensor) -> Tensor:
        """``tensor·factor`` in the first place, rounded once."""
        return torch.mul(tensor, factor, out=self.like(tensor, tensor.dtype))
