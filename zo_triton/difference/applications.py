"""Calls of layers whose outputs are perturbed: what is kept of each, and the gradient that its nodes give."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor

from zo_triton._memory import check_rest
from zo_triton._precision import factor
from zo_triton.ops import Node


class LayerSize(NamedTuple):
    """What it costs to perturb a layer on its nodes, or in its weights.

    Attributes:
        ids: Tensor ids of its weight and its bias, those that are trained.
        nodes: Q, nodes of a sample, in all its applications; 0 of a parameter that is perturbed itself anyhow.
        elements: Weights and biases.
        input_square: Mean over the nodes of the squared inputs that a node's weights meet, plus 1 for a trained
            bias. A sample that is not finite, and so will be left out, has no part in it.
    """

    ids: tuple[int, ...]
    nodes: int
    elements: int
    input_square: float


@dataclass(eq=False)
class Application:
    """One call of a layer that is perturbed on its nodes.

    Args:
        node: Where its noise is drawn.
        weight_id: Tensor id of the weight, -1 if it is not trained.
        bias_id: Tensor id of the bias, -1 if there is none or it is not trained.
        input: The base input, [R, in_features], or [N, C, *spatial] of a convolution.
        weight: The weight as the layer takes it.
        shape: Of the base output.
        transposed: The weight of a linear layer is stored as [in_features, out_features].
        convolution: Arguments of ``aten::convolution`` after the bias; None for a linear layer.
        leading: Size of the input's first axis if it has more than two, or if the layer is a convolution.
    """

    node: Node
    weight_id: int
    bias_id: int
    input: Tensor
    weight: Tensor
    shape: torch.Size
    transposed: bool = False
    convolution: tuple[Any, ...] | None = None
    leading: int | None = None

    @property
    def rows(self) -> int:
        """How many outputs the layer makes of one weight: what the batch and all axes but the features hold."""
        return self.shape[0] if self.convolution is not None else prod(self.shape[:-1])

    @property
    def positions(self) -> int:
        """Q, nodes of a sample."""
        return prod(self.shape) // self.node.samples

    @property
    def rows_a_sample(self) -> int:
        """How many of the rows belong to a sample: its tokens, perhaps. 0 for a convolution."""
        return 0 if self.convolution is not None else self.rows // self.node.samples

    @property
    def ids(self) -> tuple[int, ...]:
        """Tensor ids of what is trained of the layer."""
        return tuple(each for each in (self.weight_id, self.bias_id) if each >= 0)

    def input_square(self) -> float:
        """As :attr:`LayerSize.input_square`, for this application."""
        square = 1.0 if self.bias_id >= 0 else 0.0
        if self.weight_id < 0:
            return square
        squares = self.input.float().square()
        if self.convolution is None:
            return square + _finite_mean(squares.sum(-1))
        met = torch.ops.aten.convolution(squares, torch.ones_like(self.weight), None, *self.convolution)
        return square + _finite_mean(met)

    def gradients(self, of_nodes: Tensor, bad: Tensor | None = None) -> Iterator[tuple[int, Tensor]]:
        """The layer's share of the gradient, id by id, as backpropagation has it of ∂L/∂output.

        Args:
            of_nodes: [N, Q] float32, zero for the samples that are left out.
            bad: [N] bool, those samples, whose inputs may not be finite; None if there are none.
        """
        input = self.input
        if bad is not None:
            apart = input.reshape(len(bad), -1)
            input = apart.masked_fill(bad[:, None], 0).view(input.shape)
        if self.convolution is None:
            rows = of_nodes.reshape(-1, self.shape[-1])
            if self.weight_id >= 0:
                given, rounded = factor(input.to(rows.dtype)), factor(rows)
                yield self.weight_id, given.mT @ rounded if self.transposed else rounded.mT @ given
            if self.bias_id >= 0:
                yield self.bias_id, rows.sum(0)
            return
        outputs = of_nodes.reshape(self.shape)
        if self.weight_id >= 0:
            check_rest(outputs.device)
            _, gradient, _ = torch.ops.aten.convolution_backward(
                outputs, input, self.weight, None, *self.convolution, (False, True, False)
            )
            yield self.weight_id, gradient
        if self.bias_id >= 0:
            yield self.bias_id, outputs.flatten(2).sum((0, 2))


def layer_sizes(
    applications: Sequence[Application], themselves: Iterable[int], shapes: Sequence[torch.Size]
) -> list[LayerSize]:
    """The layers behind a run's applications; those that share a parameter are one.

    Args:
        applications: Of the run.
        themselves: Ids of the parameters that are perturbed themselves; they come last, one by one.
        shapes: Of all parameters in the order of their ids.
    """
    layers: list[tuple[set[int], list[Application]]] = []
    for application in applications:
        ids, together = set(application.ids), [application]
        apart = []
        for others, theirs in layers:
            if ids & others:
                ids, together = ids | others, theirs + together
            else:
                apart.append((others, theirs))
        layers = [*apart, (ids, together)]
    sizes = [shape.numel() for shape in shapes]
    found = [
        LayerSize(
            tuple(sorted(ids)),
            sum(each.positions for each in together),
            sum(sizes[i] for i in ids),
            sum(each.positions * each.input_square() for each in together)
            / sum(each.positions for each in together),
        )
        for ids, together in layers
    ]
    return found + [LayerSize((i,), 0, sizes[i], 1.0) for i in sorted(themselves)]


def _finite_mean(values: Tensor) -> float:
    """Of the values that are finite; 0 where none is."""
    kept = values[values.isfinite()]
    return float(kept.mean()) if kept.numel() else 0.0
