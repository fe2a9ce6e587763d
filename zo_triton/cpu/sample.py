"""Materialises z."""

from __future__ import annotations

import torch
from torch import Tensor

from zo_triton.cpu.arrays import draw_factors, draw_whole
from zo_triton.cpu.threads import parallel
from zo_triton.directions import Directions


def sample(out: Tensor, directions: Directions, tensor_id: int, dtype: torch.dtype) -> None:
    """``out[k] = z_k``; same contract as the reference. Drawn in float32, or bfloat16 if ``dtype`` is."""
    shape = tuple(out.shape[1:])
    drawn = torch.bfloat16 if dtype == torch.bfloat16 else torch.float32
    if directions.is_low_rank(shape):
        left, right = draw_factors(directions, tensor_id, shape, drawn)
        out.copy_(torch.bmm(left, right.transpose(1, 2)).view(out.shape))
        return

    def run(start: int, stop: int) -> None:
        for k in range(start, stop):
            out[k] = draw_whole(directions, directions.first + k, tensor_id, shape, drawn).view(shape)

    parallel(run, directions.num)
