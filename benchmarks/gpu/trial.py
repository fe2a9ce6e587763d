"""What a check draws its inputs from, and how far a result is from the truth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from zo_triton.directions import Directions
from zo_triton.opcases import Arguments, Case, RandomOperands


class Trial:
    """Random inputs of one check, drawn on the CPU, where float64 sees them, and placed on the device.

    Args:
        device: Where the kernels run.
        tiny: Fewer directions, for the interpreter.
        seed: Of everything drawn.

    Attributes:
        operands: Draws on the CPU.
        generator: That ``operands`` draws from.
    """

    def __init__(self, device: torch.device, tiny: bool, seed: int) -> None:
        self.device, self.tiny, self.seed = device, tiny, seed
        self.operands = RandomOperands("cpu", seed)
        self.generator = self.operands.generator

    def place(self, value: Any) -> Any:
        """A copy on the device, which a kernel may overwrite, of a tensor and of those in lists and tuples."""
        if isinstance(value, Tensor):
            return value.to(self.device, copy=True)
        if isinstance(value, torch.device):
            return self.device
        return type(value)(self.place(one) for one in value) if isinstance(value, (list, tuple)) else value

    def run(self, case: Case, arguments: Arguments) -> Tensor:
        """What the kernel writes."""
        placed = self.place(arguments)
        case.run(placed)
        return case.result(placed)

    def compare(self, case: Case) -> tuple[Tensor, Tensor]:
        """What the kernel writes, and what the reference does."""
        arguments = case.arguments(self.operands)
        return self.run(case, arguments), case.exact(arguments)

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


def share_of_unequal(found: Tensor, wanted: Tensor) -> float:
    """Of elements that must agree bit for bit."""
    return (found.cpu() != wanted).double().mean().item()
