"""A whole MLP whose layers' outputs are perturbed, layer by layer by this engine's own operations."""

from __future__ import annotations

import torch
from torch import Tensor

from zo_triton.cpu.cross_entropy import cross_entropy_difference
from zo_triton.cpu.nodes import node_epilogue, node_linear
from zo_triton.directions import Directions


def node_mlp_differences(
    out: Tensor,
    outputs: list[Tensor],
    weights: list[Tensor],
    activations: list[str],
    target: Tensor,
    directions: Directions,
    applications: list[int],
    firsts: list[int],
    signed_eps: Tensor,
    label_smoothing: float,
) -> None:
    """Same contract as the reference."""
    evaluations, samples = out.shape
    moved = torch.zeros(evaluations, *outputs[0].shape, dtype=torch.float32, device="cpu")
    node_epilogue(moved, outputs[0], directions, applications[0], firsts[0], signed_eps, activations[0])
    layers = zip(weights, outputs[1:], applications[1:], firsts[1:], activations[1:], strict=True)
    for weight, before, application, first, activation in layers:
        difference, moved = moved, torch.empty(evaluations, *before.shape, dtype=torch.float32, device="cpu")
        base = None if activation == "none" else before
        node_linear(
            moved, difference, weight, base, directions, application, first, samples, signed_eps, activation
        )
    if target.is_floating_point():
        out.copy_((moved * (2 * (outputs[-1] - target) + moved)).sum(-1))
    else:
        cross_entropy_difference(out, outputs[-1], moved, target, label_smoothing)
