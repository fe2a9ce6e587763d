"""The sizes at which every kernel is timed and tuned, and the cases of these sizes."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch

from zo_triton.directions import Directions
from zo_triton.opcases.elementwise import ActivationCase, CrossEntropyCase, LargestCase
from zo_triton.opcases.field import GramCase, SampleCase, StageCase, UpdateCase
from zo_triton.opcases.layers import ConvolutionCase, LinearCase
from zo_triton.opcases.network import NetworkCase
from zo_triton.opcases.nodes import (
    NodeConvolutionCase,
    NodeEpilogueCase,
    NodeGradientCase,
    NodeLinearCase,
    NodeNetworkCase,
    NodeSampleCase,
)

UPDATE_DIRECTIONS = 8
"""K of the update, small enough that the memory's bandwidth and not the generator should be its limit."""


@dataclass(frozen=True)
class Sizes:
    """How large the operands are; each method is a case of one operation.

    Attributes:
        directions: K of a layer.
        samples: Of a layer.
        inputs: Features into a layer.
        outputs: Features out of a layer.
        update: Rows and columns of the tensor that ``accumulate`` moves; beyond any cache.
        field: Rows and columns of drawn matrices.
        images: (samples, channels, side) of convolution and pooling.
        network: Widths of the network that is evaluated in one launch, and updated.
        network_directions: Its K.
        classes: Of the loss.
    """

    directions: int
    samples: int
    inputs: int
    outputs: int
    update: int
    field: int
    images: tuple[int, int, int]
    network: tuple[int, ...]
    network_directions: int
    classes: int

    def linear(
        self,
        dtype: torch.dtype,
        *,
        sides: int = 1,
        first: bool = False,
        distribution: str = "rademacher",
        rank: int | None = None,
    ) -> LinearCase:
        """A linear layer with bias and ReLU, all directions in one call."""
        return LinearCase(
            directions=Directions(0, 0, self.directions, distribution, rank=rank), samples=self.samples,
            inputs=self.inputs, outputs=self.outputs, dtype=dtype, sides=sides, first=first,
        )  # fmt: skip

    def convolution(self, dtype: torch.dtype) -> ConvolutionCase:
        """A middle layer of 3 × 3 windows, one side."""
        samples, channels, side = self.images
        return ConvolutionCase(
            directions=Directions(0, 0, 4), samples=samples, channels=(channels, channels), size=(side, side),
            padding=(1, 1), dtype=dtype,
        )  # fmt: skip

    def whole_network(self) -> NetworkCase:
        """A ReLU network with its cross-entropy in one launch, one side."""
        return NetworkCase(
            directions=Directions(0, 0, self.network_directions), widths=self.network, samples=128
        )

    def accumulate(self, distribution: str) -> UpdateCase:
        """The update of one matrix."""
        shape = (self.update, self.update)
        return UpdateCase(directions=Directions(0, 0, UPDATE_DIRECTIONS, distribution), shapes=[shape])

    def network_update(self) -> UpdateCase:
        """The update of all tensors of the network that is evaluated in one launch."""
        pairs = pairwise(self.network)
        shapes = [shape for inputs, outputs in pairs for shape in ((outputs, inputs), (outputs,))]
        return UpdateCase(directions=Directions(0, 0, self.network_directions), shapes=shapes)

    def sample(self, distribution: str) -> SampleCase:
        """Directions of one matrix, written out."""
        return SampleCase(directions=Directions(0, 0, 4, distribution), rows=self.field, cols=self.field)

    def stage(self) -> StageCase:
        """Packed signs of one matrix."""
        return StageCase(directions=Directions(0, 0, 32), rows=self.field, cols=self.field)

    def gram(self) -> GramCase:
        """Inner products of the directions of one matrix."""
        return GramCase(directions=Directions(0, 0, 32), shapes=[(self.field // 4, self.field // 4)])

    def activation(self, dtype: torch.dtype) -> ActivationCase:
        """GELU's difference on its own."""
        return ActivationCase(
            evaluations=self.directions, samples=self.samples, features=self.inputs, activation="gelu", dtype=dtype
        )  # fmt: skip

    def cross_entropy(self) -> CrossEntropyCase:
        """The loss of every evaluation and sample."""
        return CrossEntropyCase(evaluations=4 * self.directions, samples=self.samples, classes=self.classes)

    def largest(self) -> LargestCase:
        """Max pooling of 2 × 2 windows."""
        samples, channels, side = self.images
        return LargestCase(evaluations=4, planes=samples * channels, side=side)

    def node_sample(self) -> NodeSampleCase:
        """Signs of a layer's outputs, written out."""
        return NodeSampleCase(directions=self._orthogonal, samples=self.samples, positions=self.outputs)

    def node_epilogue(self, dtype: torch.dtype) -> NodeEpilogueCase:
        """Signs and ReLU on differences that are there already."""
        return NodeEpilogueCase(
            directions=self._orthogonal, samples=self.samples, positions=self.outputs, dtype=dtype
        )

    def node_linear(self, dtype: torch.dtype) -> NodeLinearCase:
        """A linear layer with signs on its outputs and ReLU, one side."""
        return NodeLinearCase(
            directions=self._orthogonal, samples=self.samples, inputs=self.inputs, outputs=self.outputs,
            dtype=dtype,
        )  # fmt: skip

    def node_convolution(self, dtype: torch.dtype) -> NodeConvolutionCase:
        """A middle layer of 3 × 3 windows with signs on its outputs, one side."""
        samples, channels, side = self.images
        return NodeConvolutionCase(
            directions=Directions(0, 0, 4, "hadamard"), samples=samples, channels=(channels, channels),
            size=(side, side), padding=(1, 1), dtype=dtype,
        )  # fmt: skip

    def node_gradient(self) -> NodeGradientCase:
        """What was measured, for each output of a layer."""
        return NodeGradientCase(directions=self._orthogonal, samples=self.samples, positions=self.outputs)

    def node_network(self) -> NodeNetworkCase:
        """A ReLU network with signs on its layers' outputs and its cross-entropy in one launch, one side."""
        directions = Directions(0, 0, self.network_directions, "hadamard")
        return NodeNetworkCase(directions=directions, samples=128, widths=self.network)

    @property
    def _orthogonal(self) -> Directions:
        return Directions(0, 0, self.directions, "hadamard")


FULL = Sizes(
    directions=32,
    samples=256,
    inputs=4096,
    outputs=4096,
    update=8192,
    field=4096,
    images=(64, 64, 32),
    network=(784, 128, 128, 10),
    network_directions=1024,
    classes=1000,
)
TINY = Sizes(
    directions=2,
    samples=8,
    inputs=32,
    outputs=32,
    update=32,
    field=32,
    images=(2, 4, 6),
    network=(12, 8, 5),
    network_directions=2,
    classes=5,
)
"""Proves that everything works."""
