"""What a check draws its inputs from, and how far a result is from the truth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from zo_triton.directions import Directions


class Trial:
    """Random inputs of one check, drawn on the CPU, where float64 sees them, and placed on the device.

    Args:
        device: Where the kernels run.
        tiny: Fewer directions, for the interpreter.
        seed: Of everything drawn.
    """

    def __init__(self, device: torch.device, tiny: bool, seed: int) -> None:
        self.device, self.tiny, self.seed = device, tiny, seed
        self.generator = torch.Generator().manual_seed(seed)

    def normal(self, *shape: int) -> Tensor:
        """Float32, on the CPU."""
        return torch.randn(shape, generator=self.generator)

    def place(self, tensor: Tensor | None) -> Any:
        """A copy on the device, which a kernel may overwrite; None stays None."""
        return None if tensor is None else tensor.to(self.device, copy=True)

    def poisoned(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Memory on the device, full of NaN."""
        return torch.full(shape, torch.nan, dtype=dtype, device=self.device)

    def directions(self, distribution: str, rank: int | None = None) -> Directions:
        """Some in the middle of a step, under a random key."""
        count = 2 if self.tiny else 5
        key = int(torch.randint(2**62, (), generator=self.generator))
        return Directions(key, 5, count + 1, distribution, rank=rank)[1:]


@dataclass(frozen=True)
class Check:
    """One operation in one case.

    Attributes:
        op: The operation.
        label: The case.
        dtype: Left out on a chip that lacks it.
        run: From inputs to the error found and the error allowed.
    """

    op: str
    label: str
    dtype: torch.dtype
    run: Callable[[Trial], tuple[float, float]]


def relative_error(found: Tensor, wanted: Tensor) -> float:
    """The largest error over the largest value; infinite where a NaN was left standing."""
    error = (found.cpu().double() - wanted).abs().max() / wanted.abs().max()
    return error.nan_to_num(nan=float("inf")).item()


def absolute_error(found: Tensor, wanted: Tensor) -> float:
    """The largest error; infinite where a NaN was left standing."""
    return (found.cpu().double() - wanted).abs().max().nan_to_num(nan=float("inf")).item()
