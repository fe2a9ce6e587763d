"""The field by itself: drawn, packed, added up, rounded by, multiplied with itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import ClassVar

import torch
from torch import Tensor

from zo_triton import ops, reference
from zo_triton.directions import Directions
from zo_triton.opcases.case import COPY, TF32_PRODUCT, Arguments, Case, Work, bytes_of, values_of
from zo_triton.opcases.operands import Operands


@dataclass(frozen=True, kw_only=True)
class SampleCase(Case):
    """Directions of a matrix, written out in float32.

    Attributes:
        directions: Names the K directions.
        rows: Of the matrix.
        cols: Of the matrix.
        dtype: The compute dtype.
        listed: Only so many rows, chosen at random; None: all.
    """

    op: ClassVar[str] = "sample"

    directions: Directions
    rows: int
    cols: int
    dtype: torch.dtype = torch.float32
    tensor_id: int = 0
    listed: int | None = None

    def arguments(self, operands: Operands) -> Arguments:
        """out, directions, tensor_id, dtype, rows."""
        listed = None if self.listed is None else operands.integers(self.rows, self.listed)
        out = operands.unwritten(self.directions.num, self.listed or self.rows, self.cols)
        return out, self.directions, self.tensor_id, self.dtype, listed

    def work(self, arguments: Arguments) -> Work:
        """Its result goes out once."""
        values = values_of(self.directions, arguments[0].shape[1:])
        return Work(COPY, values=values, bytes=bytes_of(arguments))


@dataclass(frozen=True, kw_only=True)
class StageCase(Case):
    """Packed signs of a matrix. No custom op: each engine's function returns what it wrote."""

    op: ClassVar[str] = "stage"

    directions: Directions
    rows: int
    cols: int
    tensor_id: int = 0

    def arguments(self, operands: Operands) -> Arguments:
        """directions, tensor_id, rows, cols, device."""
        return self.directions, self.tensor_id, self.rows, self.cols, operands.device

    def run(self, arguments: Arguments) -> None:
        """Packs them."""
        self.result(arguments)

    def result(self, arguments: Arguments) -> Tensor:
        """The packed signs, made anew."""
        directions, tensor_id, rows, cols, device = arguments
        return ops.stage(directions, tensor_id, (rows, cols), device)

    def exact(self, arguments: Arguments) -> Tensor:
        """As :meth:`Case.exact`, but int32."""
        return reference.stage(*arguments)

    def work(self, arguments: Arguments) -> Work:
        """A bit a value, in whole words."""
        words = self.directions.num * 4 * -(-self.rows // 4) * -(-self.cols // 32)
        return Work(COPY, values=32.0 * words, bytes=4.0 * words)


@dataclass(frozen=True, kw_only=True)
class UpdateCase(Case):
    """Σ a_k z_k added to float32 tensors.

    Attributes:
        directions: Names the K directions.
        shapes: Of the tensors.
        dtype: The compute dtype.
    """

    op: ClassVar[str] = "accumulate"

    directions: Directions
    shapes: Sequence[Sequence[int]]
    dtype: torch.dtype = torch.float32

    def arguments(self, operands: Operands) -> Arguments:
        """tensors, tensor_ids, coefficients, directions, dtype."""
        tensors = [operands.normal(*shape) for shape in self.shapes]
        coefficients = operands.normal(self.directions.num)
        return tensors, ids_of(self.shapes), coefficients, self.directions, self.dtype

    def result(self, arguments: Arguments) -> Tensor:
        """All tensors' elements in one row."""
        return torch.cat([tensor.flatten() for tensor in arguments[0]])

    def exact(self, arguments: Arguments) -> Tensor:
        """As :meth:`Case.exact`."""
        wanted = [tensor.double() for tensor in arguments[0]]
        reference.accumulate(wanted, *arguments[1:])
        return self.result((wanted,))

    def work(self, arguments: Arguments) -> Work:
        """Every tensor comes in and goes out."""
        values = sum(values_of(self.directions, shape) for shape in self.shapes)
        elements = sum(prod(shape) for shape in self.shapes)
        sums = 2.0 * self.directions.num * elements
        return Work(COPY, sums, values, 2 * bytes_of(arguments[0]))


@dataclass(frozen=True, kw_only=True)
class RoundingCase(Case):
    """A float32 update added to a narrow tensor of a shape, rounded at random."""

    op: ClassVar[str] = "stochastic_add"

    directions: Directions
    shape: Sequence[int]
    dtype: torch.dtype
    tensor_id: int = 0

    def arguments(self, operands: Operands) -> Arguments:
        """out, update, directions, tensor_id."""
        tensor = operands.normal(*self.shape, dtype=self.dtype)
        return tensor, operands.normal(*self.shape, scale=1e-2), self.directions, self.tensor_id

    def exact(self, arguments: Arguments) -> Tensor:
        """As :meth:`Case.exact`, but in the tensor's dtype: every bit is defined."""
        wanted = arguments[0].clone()
        reference.stochastic_add(wanted, *arguments[1:])
        return wanted

    def work(self, arguments: Arguments) -> Work:
        """The tensor comes in and goes out."""
        return Work(COPY, values=float(prod(self.shape)), bytes=bytes_of((arguments[0], *arguments[:2])))


@dataclass(frozen=True, kw_only=True)
class GramCase(Case):
    """Inner products of directions over all tensors of these shapes.

    Attributes:
        directions: Names the K directions.
        shapes: Of the tensors, whose elements are not read.
        dtype: The compute dtype.
    """

    op: ClassVar[str] = "gram"

    directions: Directions
    shapes: Sequence[Sequence[int]]
    dtype: torch.dtype = torch.float32

    def arguments(self, operands: Operands) -> Arguments:
        """out, tensors, tensor_ids, directions, dtype."""
        K, tensors = self.directions.num, [operands.unwritten(*shape) for shape in self.shapes]
        out = operands.unwritten(K, K, dtype=torch.float64)
        return out, tensors, ids_of(self.shapes), self.directions, self.dtype

    def work(self, arguments: Arguments) -> Work:
        """All pairs; half of them, and the diagonal, are enough."""
        K, elements = self.directions.num, sum(prod(shape) for shape in self.shapes)
        values = sum(values_of(self.directions, shape) for shape in self.shapes)
        return Work(
            TF32_PRODUCT, 2.0 * K**2 * elements, values, bytes_of(arguments[:1]), 1.0 * K * (K - 1) * elements
        )


def ids_of(shapes: Sequence[object]) -> list[int]:
    """Tensor ids that don't follow one another."""
    return [3 * number for number in range(len(shapes))]
