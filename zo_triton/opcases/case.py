"""What every case has in common, and how much work one call is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from zo_triton import reference
from zo_triton.directions import Directions, matrix_shape
from zo_triton.opcases.operands import Operands
from zo_triton.ops.registry import call

COPY, HALF_PRODUCT, TF32_PRODUCT = "copy", "bf16 product", "tf32 product"
"""Plain work of the device that an operation's rate is held against."""

Arguments = tuple[Any, ...]
"""Of one call, in the order of the op's schema: what is written comes first."""


@dataclass(frozen=True)
class Work:
    """How much one call is.

    Attributes:
        ceiling: Name of the plain work that its rate is held against.
        flops: Multiplications and additions of its products, by definition and not as folded.
        values: Elements of the field that it draws.
        bytes: That it must read and write, whatever it keeps on the chip.
        avoidable: Of ``flops``, those that thin factors or a symmetric result make needless.
    """

    ceiling: str
    flops: float = 0.0
    values: float = 0.0
    bytes: float = 0.0
    avoidable: float = 0.0

    @property
    def least_flops(self) -> float:
        """What no implementation can do without."""
        return self.flops - self.avoidable


class Case(ABC):
    """One call of an operation; subclasses are frozen dataclasses of its sizes and options."""

    op: ClassVar[str]
    """The operation's name, which is that of each engine's function."""

    @abstractmethod
    def arguments(self, operands: Operands) -> Arguments:
        """The operands of a call, and memory for its result."""

    @abstractmethod
    def work(self, arguments: Arguments) -> Work:
        """How much a call with these arguments is."""

    def run(self, arguments: Arguments) -> None:
        """Calls the operation on the engine of the arguments' device."""
        call(self.op, next(_tensors(arguments)).device, *arguments)

    def result(self, arguments: Arguments) -> Tensor:
        """What a call has written."""
        return arguments[0]

    def exact(self, arguments: Arguments) -> Tensor:
        """The reference's result in float64, of arguments on the CPU before the call; they stay as they are."""
        wanted = torch.empty(arguments[0].shape, dtype=torch.float64, device="cpu")
        getattr(reference, self.op)(wanted, *arguments[1:])
        return wanted


def bytes_of(arguments: Arguments) -> float:
    """Of all tensors, each counted once."""
    return float(sum(tensor.numel() * tensor.element_size() for tensor in _tensors(arguments)))


def values_of(directions: Directions, shape: Sequence[int]) -> float:
    """Elements of the field that the directions of a tensor of this shape are made of."""
    rows, cols = matrix_shape(shape)
    if directions.is_low_rank(shape):
        return float(directions.num * (rows + cols) * (directions.rank or 1))
    return float(directions.num * rows * cols)


def product_ceiling(dtype: torch.dtype) -> str:
    """What products in a compute dtype are held against."""
    return HALF_PRODUCT if dtype == torch.bfloat16 else TF32_PRODUCT


def _tensors(value: object) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for one in value:
            yield from _tensors(one)
