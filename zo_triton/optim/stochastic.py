"""The update of a float16 or bfloat16 weight that has no float32 copy: rounded stochastically, unbiased."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from zo_triton import ops
from zo_triton.directions import Directions
from zo_triton.optim.scratch import Scratch


def descend_stochastically(
    param: Tensor,
    tensor_id: int,
    buffer: Tensor | None,
    add_estimate: Callable[..., None],
    words: Directions,
    lr: float | Tensor,
    momentum: float,
    decay: float,
    scratch: Scratch,
) -> None:
    """θ ← round(θ - ηv) with v ← μv + ĝ + λθ, or v = ĝ + λθ without a buffer.

    The move is computed in float32 and added to the weight exactly; only the sum is rounded. So moves far below
    the weight's spacing add up in the mean, which rounding to nearest would swallow. Besides the buffer nothing
    is kept; the move takes four bytes a weight of the scratch memory.

    Args:
        param: float16 or bfloat16, updated in place.
        tensor_id: Its id in the field.
        buffer: v in float32, updated in place, or None without momentum.
        add_estimate: Adds ĝ, times a factor, to tensors of the parameters of some ids.
        words: The step's directions, whose seed and step name the random words that round.
        lr: η; a weight is left as it is where this is a number and 0.
        momentum: μ.
        decay: λ.
        scratch: Memory for two of the largest parameters in float32.
    """
    moves = isinstance(lr, Tensor) or lr != 0
    if buffer is not None:
        buffer.mul_(momentum)
        if decay:
            buffer.add_(param, alpha=decay)
        add_estimate([buffer], [tensor_id], scratch)
        if not moves:
            return
        move = scratch.product(buffer, -lr)
    elif moves:
        move = scratch.like(param, torch.float32, place=1)
        if decay:
            move.copy_(param).mul_(-lr * decay)
        else:
            move.zero_()
        add_estimate([move], [tensor_id], scratch, -lr)
    else:
        return
    ops.stochastic_add(param, move, words, tensor_id)
