"""A whole MLP whose layers' outputs are perturbed, in float64: layer by layer, then the loss."""

from __future__ import annotations

import torch
from torch import Tensor

from zo_triton.directions import Directions
from zo_triton.reference.nodes import node_epilogue, node_linear
from zo_triton.reference.operations import cross_entropy_difference


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
    """Each sample's loss difference through a whole MLP: cross-entropy, or Σ_c Δ(2r+Δ) with r the residual.

    The first layer's outputs move by the noise alone: neither its input nor its weight matters.

    Args:
        out: [P, N] float32.
        outputs: The base pre-activation of each layer, [N, out_l]; the last are the logits.
        weights: [out_l, out_(l-1)] of each layer but the first.
        activations: What follows each layer; "none" after the last.
        target: [N] int64 class indices in [0, C), or for the squared error [N, C] float32.
        directions: Names the K directions.
        applications: Number of each layer's application in the closure.
        firsts: Column index of each one's first node.
        signed_eps: [P] float32.
        label_smoothing: Share of the uniform distribution mixed into the target.
    """
    samples = out.shape[1]
    moved = torch.zeros(len(out), *outputs[0].shape, dtype=torch.float64, device="cpu")
    for layer, before in enumerate(outputs):
        noise = directions, applications[layer], firsts[layer]
        if layer == 0:
            node_epilogue(moved, before, *noise, signed_eps, activations[0])
        else:
            difference = moved
            moved = torch.empty(len(out), *before.shape, dtype=torch.float64, device="cpu")
            node_linear(
                moved, difference, weights[layer - 1], before, *noise, samples, signed_eps, activations[layer]
            )
    if target.is_floating_point():
        out.copy_((moved * (2 * (outputs[-1].double() - target.double()) + moved)).sum(-1))
    else:
        cross_entropy_difference(out, outputs[-1], moved, target, label_smoothing)
