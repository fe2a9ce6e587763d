"""A whole network with its loss, in one call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch.nn.functional as F

from zo_triton.directions import Directions
from zo_triton.opcases.case import TF32_PRODUCT, Arguments, Case, Work, bytes_of, values_of
from zo_triton.opcases.operands import Operands, signed_eps
from zo_triton.reference.operations import ACTIVATIONS


@dataclass(frozen=True, kw_only=True)
class NetworkCase(Case):
    """A network of linear layers with trained biases, float32.

    Attributes:
        directions: Names the K directions, full-rank signs.
        widths: From the inputs to the classes.
        samples: Of the batch.
        sides: 1, or 2 for central pairs.
        activations: One for each layer but the last; None: ReLU.
        untrained: Layers whose weights are not trained.
        squared: Squared error in place of cross-entropy.
    """

    op: ClassVar[str] = "mlp_differences"

    directions: Directions
    widths: Sequence[int]
    samples: int
    sides: int = 1
    activations: Sequence[str] | None = None
    untrained: Sequence[int] = ()
    squared: bool = False

    def arguments(self, operands: Operands) -> Arguments:
        """out, inputs, outputs, weights, ids, activations, target, directions, signed_eps, smoothing."""
        depth, samples = len(self.widths) - 1, self.samples
        activations = [*(self.activations or ["relu"] * (depth - 1)), "none"]
        following, inputs, outputs, weights = operands.normal(samples, self.widths[0]), [], [], []
        for (inner, rows), name in zip(pairwise(self.widths), activations, strict=True):
            weights.append(operands.normal(rows, inner, scale=inner**-0.5))
            inputs.append(following)
            outputs.append(F.linear(following, weights[-1]))
            following = ACTIVATIONS[name](outputs[-1])
        classes = self.widths[-1]
        target = operands.normal(samples, classes) if self.squared else operands.integers(classes, samples)
        weight_ids = [-1 if layer in self.untrained else 2 * layer for layer in range(depth)]
        bias_ids = [2 * layer + 1 for layer in range(depth)]
        return (
            operands.unwritten(self.sides * self.directions.num, samples), inputs, outputs, weights, weight_ids,
            bias_ids, activations, target, self.directions,
            signed_eps(operands, self.sides, self.directions.num), 0.0,
        )  # fmt: skip

    def work(self, arguments: Arguments) -> Work:
        """As a layer's; the first layer's product serves both sides."""
        first, *others = (float(inner * rows) for inner, rows in pairwise(self.widths))
        products = self.directions.num * (first + 2 * self.sides * sum(others))
        values = sum(values_of(self.directions, shape) for shape in pairwise(self.widths))
        return Work(TF32_PRODUCT, 2.0 * self.samples * products, values, bytes_of(arguments))
