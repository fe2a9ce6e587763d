"""A ReLU network with signs on its layers' outputs in float64: what a step measures, and its gradient."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from zo_triton.directions import Directions
from zo_triton.reference.nodes import node_sample


def node_mlp_gradients(
    tensors: Sequence[np.ndarray],
    x: np.ndarray,
    target: np.ndarray,
    directions: Directions,
    eps: float,
    sides: int,
) -> tuple[float, int, list[Tensor]]:
    """The mean loss, how many samples are left out, and the gradient's estimate for each tensor.

    Args are those of ``ops.node_mlp_measure``. A sample is left out if a difference of its loss is not finite: its
    coefficients are 0, and the mean is over all samples all the same.
    """
    weights = [torch.from_numpy(tensor).double() for tensor in tensors]
    inputs = torch.from_numpy(x).double()
    goal = torch.from_numpy(target)

    def losses(noise: Sequence[Tensor | float]) -> tuple[Tensor, list[Tensor]]:
        a, entering = inputs, []
        for layer, shift in enumerate(noise):
            entering.append(a)
            a = F.linear(a, weights[2 * layer], weights[2 * layer + 1][0]) + shift
            a = torch.relu(a) if layer + 1 < len(noise) else a
        if goal.dim() == 2:
            return (a - goal.double()).square().mean(1), entering
        return F.cross_entropy(a, goal, reduction="none"), entering

    depth, samples = len(weights) // 2, len(x)
    base, entering = losses([0.0] * depth)
    signs, first = [], 0
    for layer in range(depth):
        out = torch.empty(directions.num, samples, len(weights[2 * layer]), dtype=torch.float64, device="cpu")
        node_sample(out, directions, layer, first)
        signs.append(out)
        first += out.shape[2]
    slopes = torch.empty(directions.num, samples, dtype=torch.float64, device="cpu")
    for k in range(directions.num):
        there = losses([eps * sign[k] for sign in signs])[0]
        back = losses([-eps * sign[k] for sign in signs])[0] if sides == 2 else base
        slopes[k] = (there - back) / (sides * eps)
    usable = slopes.isfinite().all(0)
    coefficients = torch.where(usable, slopes, torch.zeros_like(slopes)) / (directions.num * samples)
    gradients = []
    for sign, a in zip(signs, entering, strict=True):
        of_nodes = (coefficients[:, :, None] * sign).sum(0)
        gradients += [of_nodes.T @ a, of_nodes.sum(0)[None]]
    return float(base.mean()), int((~usable).sum()), gradients
