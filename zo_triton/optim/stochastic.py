"""The update of a float16 or bfloat16 weight that has no float32 copy: rounded stochastically, unbiased."""

from __future__ import annotations

import torch
from torch import Tensor

from zo_triton import ops
from zo_triton.directions import Directions


def descend_stochastically(
    param: Tensor,
    tensor_id: int,
    buffer: Tensor | None,
    coefficients: Tensor,
    directions: Directions,
    compute_dtype: torch.dtype,
    lr: float | Tensor,
    momentum: float,
    decay: float,
) -> None:
    """θ ← round(θ - ηv) with v ← μv + ĝ + λθ, or v = ĝ + λθ without a buffer.

    The move is computed in float32 and added to the weight exactly; only the sum is rounded. So moves far below
    the weight's spacing add up in the mean, which rounding to nearest would swallow. Besides the buffer nothing
    is kept; the move takes four bytes a weight while it is made.

    Args:
        param: float16 or bfloat16, updated in place.
        tensor_id: Its id in the field.
        buffer: v in float32, updated in place, or None without momentum.
        coefficients: [K] float32, the a_k of ĝ = Σ_k a_k·z_k.
        directions: The step's; its seed and step also name the random words that round.
        compute_dtype: Dtype whose rounding defines z.
        lr: η; a weight is left as it is where this is a number and 0.
        momentum: μ.
        decay: λ.
    """
    moves = isinstance(lr, Tensor) or lr != 0
    if buffer is not None:
        buffer.mul_(momentum)
        if decay:
            buffer.add_(param, alpha=decay)
        ops.accumulate_on_grid([buffer], [tensor_id], coefficients, directions, compute_dtype)
        if not moves:
            return
        move = buffer * -lr
    elif moves:
        move = param.float() * (-lr * decay) if decay else torch.zeros_like(param, dtype=torch.float32)
        ops.accumulate_on_grid([move], [tensor_id], coefficients * -lr, directions, compute_dtype)
    else:
        return
    ops.stochastic_add(param, move, directions, tensor_id)
