"""Layers whose outputs are perturbed, and the sums over directions that they are perturbed for."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from zo_triton import reference
from zo_triton.directions import Directions
from zo_triton.opcases.case import COPY, TF32_PRODUCT, Arguments, Case, Work, bytes_of, product_ceiling
from zo_triton.opcases.operands import Operands, signed_eps
from zo_triton.reference.operations import ACTIVATIONS

APPLICATION, FIRST = 3, 13
"""Numbers that no kernel gets right by leaving them out; the first column stands within a word of signs."""


@dataclass(frozen=True, kw_only=True)
class NodeCase(Case):
    """What all of them share.

    Attributes:
        directions: Names the K directions, ``hadamard`` or ``rademacher``.
        samples: N.
    """

    directions: Directions
    samples: int

    @property
    def noise(self) -> Arguments:
        """Arguments of the ops that name the noise."""
        return self.directions, APPLICATION, FIRST

    def values(self, nodes: int) -> float:
        """Elements of the field for so many nodes of a sample."""
        drawn = 1 if self.directions.order is not None else self.directions.num
        return float(drawn * self.samples * nodes)


@dataclass(frozen=True, kw_only=True)
class NodeSampleCase(NodeCase):
    """The noise written out, for ``positions`` nodes of a sample."""

    op: ClassVar[str] = "node_sample"

    positions: int

    def arguments(self, operands: Operands) -> Arguments:
        """out, directions, application, first."""
        return operands.unwritten(self.directions.num, self.samples, self.positions), *self.noise

    def work(self, arguments: Arguments) -> Work:
        """Its result goes out once."""
        return Work(COPY, values=self.values(self.positions), bytes=bytes_of(arguments))


@dataclass(frozen=True, kw_only=True)
class NodeGradientCase(NodeCase):
    """Each node's share of what was measured.

    Attributes:
        positions: Q, nodes of a sample.
        tokens: Of a sample, each with coefficients of its own.
    """

    op: ClassVar[str] = "node_gradient"

    positions: int
    tokens: int = 1

    def arguments(self, operands: Operands) -> Arguments:
        """out, coefficients, directions, application, first, samples."""
        rows = self.samples * self.tokens
        out = operands.unwritten(rows, self.positions // self.tokens)
        return out, operands.normal(self.directions.num, rows), *self.noise, self.samples

    def work(self, arguments: Arguments) -> Work:
        """A sum over the directions for every node; orthogonal signs need a transform of the coefficients only."""
        sums = 2.0 * self.directions.num * arguments[0].numel()
        avoidable, order = 0.0, self.directions.order
        if order is not None:
            transform = float(order * (order.bit_length() - 1) * arguments[1].shape[1])
            avoidable = max(0.0, sums - transform - arguments[0].numel())
        return Work(TF32_PRODUCT, sums, self.values(self.positions), bytes_of(arguments), avoidable)


@dataclass(frozen=True, kw_only=True)
class ActivatedNodeCase(NodeCase):
    """What layers with signs on their outputs share.

    Attributes:
        dtype: Of differences and products, float32 or bfloat16.
        sides: 1, or 2 for central pairs.
        activation: That follows.
    """

    dtype: torch.dtype = torch.float32
    sides: int = 1
    activation: str = "relu"

    @property
    def evaluations(self) -> int:
        """Of all directions."""
        return self.sides * self.directions.num

    def steps(self, operands: Operands) -> Tensor:
        """sε of every evaluation."""
        return signed_eps(operands, self.sides, self.directions.num)


@dataclass(frozen=True, kw_only=True)
class NodeEpilogueCase(ActivatedNodeCase):
    """Signs and the activation on differences of ``positions`` nodes of a sample that are there already."""

    op: ClassVar[str] = "node_epilogue"

    positions: int

    def arguments(self, operands: Operands) -> Arguments:
        """out, base_output, directions, application, first, signed_eps, activation."""
        shape = self.samples, self.positions
        out = operands.normal(self.evaluations, *shape, scale=1e-3, dtype=self.dtype)
        before = None if self.activation == "none" else operands.normal(*shape)
        return out, before, *self.noise, self.steps(operands), self.activation

    def exact(self, arguments: Arguments) -> Tensor:
        """As :meth:`Case.exact`, of a copy: the operation works in place."""
        wanted = arguments[0].double()
        reference.node_epilogue(wanted, *arguments[1:])
        return wanted

    def work(self, arguments: Arguments) -> Work:
        """The differences come in and go out."""
        moved = bytes_of(arguments) + bytes_of(arguments[:1])
        return Work(COPY, values=self.values(self.positions), bytes=moved)


@dataclass(frozen=True, kw_only=True)
class NodeLayerCase(ActivatedNodeCase):
    """A layer with signs on its output."""

    @property
    @abstractmethod
    def input_shape(self) -> tuple[int, ...]:
        """Of one evaluation."""

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

    @property
    def counted(self) -> Arguments:
        """Arguments of the op between ``first`` and ``signed_eps``."""
        return ()

    def arguments(self, operands: Operands) -> Arguments:
        """out, difference, weight, base_output, directions, application, first, …, signed_eps, …, activation, …."""
        weight = operands.normal(*self.weight_shape, scale=prod(self.weight_shape[1:]) ** -0.5)
        base_output = self.product(operands.normal(*self.input_shape), weight)
        difference = operands.normal(self.evaluations, *self.input_shape, scale=1e-3, dtype=self.dtype)
        return (
            operands.unwritten(self.evaluations, *base_output.shape, dtype=self.dtype), difference, weight,
            None if self.activation == "none" else base_output, *self.noise, *self.counted, self.steps(operands),
            *self.window, self.activation, *self.options,
        )  # fmt: skip

    def work(self, arguments: Arguments) -> Work:
        """One product an evaluation."""
        out = arguments[0]
        places = out.numel() / out.shape[2]
        flops = 2.0 * places * prod(self.weight_shape)
        values = self.values(out[0].numel() // self.samples)
        return Work(product_ceiling(self.dtype), flops, values, bytes_of(arguments))


@dataclass(frozen=True, kw_only=True)
class NodeLinearCase(NodeLayerCase):
    """A linear layer.

    Attributes:
        inputs: Features into the layer.
        outputs: Features out of it.
        rows: Of each sample.
        transposed: The weight is stored as [inputs, outputs].
    """

    op: ClassVar[str] = "node_linear"

    inputs: int
    outputs: int
    rows: int = 1
    transposed: bool = False

    @property
    def input_shape(self) -> tuple[int, ...]:
        """[samples · rows, inputs]."""
        return self.samples * self.rows, self.inputs

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """[outputs, inputs], or the other way round."""
        return (self.inputs, self.outputs) if self.transposed else (self.outputs, self.inputs)

    @property
    def counted(self) -> Arguments:
        """The number of samples."""
        return (self.samples,)

    @property
    def options(self) -> Arguments:
        """Whether it is transposed."""
        return (self.transposed,)

    def product(self, x: Tensor, weight: Tensor) -> Tensor:
        """As :meth:`NodeLayerCase.product`."""
        return x @ weight if self.transposed else F.linear(x, weight)


@dataclass(frozen=True, kw_only=True)
class NodeConvolutionCase(NodeLayerCase):
    """A convolution of images; pairs are of rows and columns.

    Attributes:
        channels: In and out.
        size: The images'.
        kernel: The window's.
        stride: Of the window.
        padding: Zeros on each side.
        dilation: Of the window.
        groups: Into which the channels fall.
    """

    op: ClassVar[str] = "node_conv2d"

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
        """As :meth:`NodeLayerCase.product`."""
        return F.conv2d(
            x, weight, stride=self.stride, padding=self.padding, dilation=self.dilation, groups=self.groups
        )


@dataclass(frozen=True, kw_only=True)
class NodeNetworkCase(NodeCase):
    """A whole network with signs on the outputs of every layer, float32.

    Attributes:
        widths: From the inputs, of which only the base knows, to the classes.
        sides: 1, or 2 for central pairs.
        activation: After each layer but the last.
        squared: Squared error in place of cross-entropy.
    """

    op: ClassVar[str] = "node_mlp_differences"

    widths: Sequence[int]
    sides: int = 1
    activation: str = "relu"
    squared: bool = False

    def arguments(self, operands: Operands) -> Arguments:
        """out, outputs, weights, activations, target, directions, applications, firsts, signed_eps, smoothing."""
        depth, samples, classes = len(self.widths) - 1, self.samples, self.widths[-1]
        following, outputs, weights = operands.normal(samples, self.widths[0]), [], []
        for inner, rows in pairwise(self.widths):
            weights.append(operands.normal(rows, inner, scale=inner**-0.5))
            outputs.append(F.linear(following, weights[-1]))
            following = ACTIVATIONS[self.activation](outputs[-1])
        target = operands.normal(samples, classes) if self.squared else operands.integers(classes, samples)
        return (
            operands.unwritten(self.sides * self.directions.num, samples), outputs, weights[1:],
            [*[self.activation] * (depth - 1), "none"], target, self.directions,
            [APPLICATION + layer for layer in range(depth)],
            [FIRST + sum(self.widths[1 : layer + 1]) for layer in range(depth)],
            signed_eps(operands, self.sides, self.directions.num), 0.0,
        )  # fmt: skip

    def work(self, arguments: Arguments) -> Work:
        """One product an evaluation of every layer but the first."""
        weights = float(sum(weight.numel() for weight in arguments[2]))
        flops = 2.0 * arguments[0].numel() * weights
        return Work(TF32_PRODUCT, flops, self.values(sum(self.widths[1:])), bytes_of(arguments))
