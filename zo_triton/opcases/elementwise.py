"""Operations on differences that draw nothing: an activation, a loss, pooling."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from zo_triton.opcases.case import COPY, Arguments, Case, Work, bytes_of
from zo_triton.opcases.operands import Operands


class ElementwiseCase(Case):
    """Limited by what it reads and writes."""

    def work(self, arguments: Arguments) -> Work:
        """Every operand once."""
        return Work(COPY, bytes=bytes_of(arguments))


@dataclass(frozen=True, kw_only=True)
class ActivationCase(ElementwiseCase):
    """An activation's difference at [samples, features], for so many evaluations."""

    op: ClassVar[str] = "activation_difference"

    evaluations: int
    samples: int
    features: int
    activation: str
    dtype: torch.dtype = torch.float32

    def arguments(self, operands: Operands) -> Arguments:
        """out, base, difference, activation."""
        shape = self.evaluations, self.samples, self.features
        difference = operands.normal(*shape, scale=1e-2, dtype=self.dtype)
        out = operands.unwritten(*shape, dtype=self.dtype)
        return out, operands.normal(*shape[1:]), difference, self.activation


@dataclass(frozen=True, kw_only=True)
class CrossEntropyCase(ElementwiseCase):
    """Each sample's cross-entropy difference over classes."""

    op: ClassVar[str] = "cross_entropy_difference"

    evaluations: int
    samples: int
    classes: int
    smoothing: float = 0.0
    dtype: torch.dtype = torch.float32

    def arguments(self, operands: Operands) -> Arguments:
        """out, logits, difference, target, label_smoothing."""
        P, N, C = self.evaluations, self.samples, self.classes
        difference = operands.normal(P, N, C, scale=1e-3, dtype=self.dtype)
        target = operands.integers(C, N)
        return operands.unwritten(P, N), operands.normal(N, C), difference, target, self.smoothing


@dataclass(frozen=True, kw_only=True)
class LargestCase(ElementwiseCase):
    """Max pooling of square images.

    Attributes:
        evaluations: Of the differences.
        planes: Samples times channels.
        side: An image's.
        window: A window's side.
        stride: From a window to the next.
        padding: By which windows reach beyond the image, whose edge stands there again.
    """

    op: ClassVar[str] = "largest_difference"

    evaluations: int
    planes: int
    side: int
    window: int = 2
    stride: int = 2
    padding: int = 0

    def arguments(self, operands: Operands) -> Arguments:
        """out, difference, gaps, places."""
        difference = operands.normal(self.evaluations, self.planes, self.side**2)
        places = self.places().to(difference.device)
        gaps = operands.normal(self.planes, *places.shape).abs_().neg_()
        return operands.unwritten(self.evaluations, self.planes, places.shape[1]), difference, gaps, places

    def places(self) -> Tensor:
        """Where in an image each window's elements lie, [window², windows] int64."""
        windows = (self.side + 2 * self.padding - self.window) // self.stride + 1
        numbers, offset = (
            torch.arange(size, dtype=torch.int64, device="cpu") for size in (windows, self.window)
        )
        start = numbers * self.stride - self.padding
        along = (offset[:, None] + start).clamp(0, self.side - 1)
        places = along[:, None, :, None] * self.side + along[None, :, None, :]
        return places.reshape(self.window**2, windows**2)
