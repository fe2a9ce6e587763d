"""Stochastic rounding with words of the field: the executable specification.

A value x between two neighbours below and above of a narrow format becomes the upper one with probability
(x - below)/(above - below), so that its mean is x. The word for element i of a tensor, in row-major order, is
word i mod 4 of block i div 4, at the counter (block, tensor with the part ``PART_ROUNDING``, 0, step).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from zo_triton.directions import PART_ROUNDING, Directions, tensor_word
from zo_triton.philox import philox


def rounding_words(directions: Directions, tensor_id: int, count: int) -> np.ndarray:
    """The words that round a tensor of ``count`` elements in this step, uint32 [count]."""
    blocks = -(-count // 4)
    counter = np.zeros((blocks, 4), np.uint32)
    counter[:, 0] = np.arange(blocks, dtype=np.uint64)
    counter[:, 1] = tensor_word(tensor_id, PART_ROUNDING)
    counter[:, 3] = directions.step
    key = directions.seed & 0xFFFFFFFF, directions.seed >> 32
    return philox(counter, key, directions.rounds).reshape(-1)[:count]


def stochastic_add(out: Tensor, update: Tensor, directions: Directions, tensor_id: int) -> None:
    """``out += update``, the sum rounded up in magnitude where its word is below 2³² times the fraction.

    A finite sum beyond the largest finite value becomes that value; NaN and infinities pass.

    Args:
        out: float16 or bfloat16, any shape.
        update: float32, the same shape.
        directions: Supplies seed, step and rounds; what else it says does not matter.
        tensor_id: The tensor's id.
    """
    exact = (out.double() + update.double()).cpu().flatten()
    words = torch.from_numpy(rounding_words(directions, tensor_id, exact.numel()).astype(np.float64))
    largest = torch.finfo(out.dtype).max
    size = exact.abs().nan_to_num(0.0, posinf=0.0).clamp(max=largest)
    nearest = size.to(out.dtype)
    # The bits of positive numbers count up with them: one less is the neighbour below.
    below = nearest.view(torch.int16) - (nearest.double() > size).to(torch.int16)
    above = below + (below.view(out.dtype) < largest).to(torch.int16)
    low, high = below.view(out.dtype).double(), above.view(out.dtype).double()
    fraction = torch.where(high > low, (size - low) / (high - low), 0.0)
    up = words < (fraction * 2.0**32).floor()
    rounded = torch.where(up, high, low).copysign(exact)
    rounded = torch.where(exact.isinf(), exact, rounded).to(out.dtype)
    # Every NaN becomes the same quiet one, whose bits follow those of infinity by half a mantissa.
    half_mantissa = int(0.5 / torch.finfo(out.dtype).eps)
    pattern = torch.tensor(torch.inf, dtype=out.dtype, device="cpu").view(torch.int16) + half_mantissa
    bits = torch.where(exact.isnan(), pattern, rounded.view(torch.int16))
    out.copy_(bits.view(out.dtype).view(out.shape))
