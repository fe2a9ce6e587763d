"""Linear layers and convolutions."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from math import prod
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from zo_triton import reference
from zo_triton.directions import Directions, matrix_shape
from zo_triton.opcases.case import Arguments, Case, Work, bytes_of, product_ceiling, values_of
from zo_triton.opcases.operands import Operands, signed_eps


@dataclass(frozen=True, kw_only=True)
class LayerCase(Case):
    """What linear layers and convolutions share.

    Attributes:
        directions: Names the K directions.
        dtype: Of differences and products, float32 or bfloat16.
        sides: 1, or 2 for central pairs.
        first: Nothing before it is perturbed: there is no difference to come in.
        has_bias: Whether it has a trained bias.
        activation: That follows.
    """

    directions: Directions
    dtype: torch.dtype = torch.float32
    sides: int = 1
    first: bool = False
    has_bias: bool = True
    activation: str = "relu"

    @property
    @abstractmethod
    def input_shape(self) -> tuple[int, ...]:
        """Of the base."""

    @property
    @abstractmethod
    def weight_shape(self) -> tuple[int, ...]:
        """Output features or channels first."""

    @abstractmethod
    def product(self, x: Tensor, weight: Tensor) -> Tensor:
        """The layer without its bias, by torch."""

    @property
    def window(self) -> Arguments:
        """Arguments of the op between ``signed_eps`` and ``activation``."""
        return ()

    @property
    def options(self) -> Arguments:
        """Arguments of the op after ``activation``."""
        return ()

    def arguments(self, operands: Operands) -> Arguments:
        """out, base, difference, weight, base_output, directions, ids, signed_eps, window, activation, options."""
        evaluations = self.sides * self.directions.num
        base = operands.normal(*self.input_shape)
        weight = operands.normal(*self.weight_shape, scale=prod(self.weight_shape[1:]) ** -0.5)
        before = self.product(base, weight)
        difference = None
        if not self.first:
            difference = operands.normal(evaluations, *base.shape, scale=1e-3, dtype=self.dtype)
        return (
            operands.unwritten(evaluations, *before.shape, dtype=self.dtype), base, difference, weight, before,
            self.directions, 0, 1 if self.has_bias else -1,
            signed_eps(operands, self.sides, self.directions.num), *self.window, self.activation,
            *self.options,
        )  # fmt: skip

    def exact(self, arguments: Arguments) -> Tensor:
        """As :meth:`Case.exact`, but in bfloat16 where that is the dtype, which tells the reference to round z."""
        dtype = torch.float64 if self.dtype == torch.float32 else self.dtype
        wanted = torch.empty(arguments[0].shape, dtype=dtype, device="cpu")
        getattr(reference, self.op)(wanted, *arguments[1:])
        return wanted

    def work(self, arguments: Arguments) -> Work:
        """δWᵀ and (a+δ)Uᵀ for every evaluation; in a first layer aᵀU alone, where it serves both sides."""
        out, shape, rank = arguments[0], self.weight_shape, self.directions.rank
        # So many times a row of the result meets the whole weight.
        places = out[0].numel() / out.shape[2]
        evaluations, full = len(out), float(prod(shape))
        thin = full if rank is None else float(rank * sum(matrix_shape(shape)))
        if self.first:
            flops, least = (2.0 * self.directions.num * places * size for size in (full, thin))
        else:
            flops, least = (2.0 * evaluations * places * (full + size) for size in (full, thin))
        return Work(
            product_ceiling(self.dtype),
            flops,
            values_of(self.directions, shape),
            bytes_of(arguments),
            flops - least,
        )


@dataclass(frozen=True, kw_only=True)
class LinearCase(LayerCase):
    """A linear layer on so many samples.

    Attributes:
        samples: Of the input.
        inputs: Features into the layer.
        outputs: Features out of it.
        transposed: The weight is stored as [inputs, outputs].
    """

    op: ClassVar[str] = "perturbed_linear"

    samples: int
    inputs: int
    outputs: int
    transposed: bool = False

    @property
    def input_shape(self) -> tuple[int, ...]:
        """[samples, inputs]."""
        return self.samples, self.inputs

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """[outputs, inputs], or the other way round."""
        return (self.inputs, self.outputs) if self.transposed else (self.outputs, self.inputs)

    @property
    def options(self) -> Arguments:
        """Whether it is transposed."""
        return (self.transposed,)

    def product(self, x: Tensor, weight: Tensor) -> Tensor:
        """As :meth:`LayerCase.product`."""
        return x @ weight if self.transposed else F.linear(x, weight)


@dataclass(frozen=True, kw_only=True)
class ConvolutionCase(LayerCase):
    """A convolution of images; pairs are of rows and columns.

    Attributes:
        samples: Images.
        channels: In and out.
        size: The images'.
        kernel: The window's.
        stride: Of the window.
        padding: Zeros on each side.
        dilation: Of the window.
        groups: Into which the channels fall.
    """

    op: ClassVar[str] = "perturbed_conv2d"

    samples: int
    channels: tuple[int, int]
    size: tuple[int, int]
    kernel: tuple[int, int] = (3, 3)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1

    @property
    def input_shape(self) -> tuple[int, ...]:
        """[samples, channels in, height, width]."""
        return self.samples, self.channels[0], *self.size

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """[channels out, channels in / groups, kernel height, kernel width]."""
        return self.channels[1], self.channels[0] // self.groups, *self.kernel

    @property
    def window(self) -> Arguments:
        """Stride, padding, dilation, groups."""
        return list(self.stride), list(self.padding), list(self.dilation), self.groups

    def product(self, x: Tensor, weight: Tensor) -> Tensor:
        """As :meth:`LayerCase.product`."""
        return F.conv2d(
            x, weight, stride=self.stride, padding=self.padding, dilation=self.dilation, groups=self.groups
        )
