"""A layer whose weight is stored as [in_features, out_features]: U drawn whole, one direction at a time."""

from __future__ import annotations

import torch
from torch import Tensor

from zo_triton.cpu.activation import activation_difference
from zo_triton.cpu.sample import sample
from zo_triton.directions import Directions


def run_transposed(
    out: Tensor,
    base: Tensor,
    difference: Tensor | None,
    weight: Tensor,
    base_output: Tensor | None,
    directions: Directions,
    weight_id: int,
    bias_id: int,
    signed_eps: Tensor,
    activation: str,
) -> None:
    """Δz = δW + sε·(a+δ)U + sε·v by torch's products in float32; arguments as in the reference."""
    base, weight = base.detach().float(), weight.detach().float()
    sides, steps = signed_eps.numel() // directions.num, signed_eps.tolist()
    u, v = torch.empty(1, *weight.shape), torch.zeros(1, weight.shape[1])
    for p, step in enumerate(steps):
        if p % sides == 0:
            one = directions[p // sides : p // sides + 1]
            if weight_id >= 0:
                sample(u, one, weight_id, out.dtype)
            if bias_id >= 0:
                sample(v, one, bias_id, out.dtype)
        change, moved = (v * step).expand(base.shape[0], -1), base
        if difference is not None:
            delta = difference[p].float()
            change, moved = torch.addmm(change, delta, weight), base + delta
        if weight_id >= 0:
            change = torch.addmm(change, moved, u[0], alpha=step)
        if activation != "none":
            assert base_output is not None
            before, change = base_output.float().contiguous(), change.contiguous()
            activation_difference(change[None], before, change[None], activation)
        out[p].copy_(change)
