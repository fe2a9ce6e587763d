"""Materialises z."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from zo_triton.cpu.arrays import draw_factors, draw_whole
from zo_triton.cpu.compiling import kernel
from zo_triton.cpu.field import key_of, sign_words
from zo_triton.cpu.threads import parallel
from zo_triton.directions import Directions, tensor_word


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


def stage(directions: Directions, tensor_id: int, rows: int, cols: int, device: torch.device) -> Tensor:
    """Packed signs of a matrix, int32 [K, 4·ceil(rows/4), ceil(cols/32)]; bit 1 is +1."""
    out = torch.empty(directions.num, -(-rows // 4) * 4, -(-cols // 32), dtype=torch.int32)
    words, word, key = out.numpy().view(np.uint32), tensor_word(tensor_id), key_of(directions)
    parallel(
        lambda start, stop: _stage_kernel(words, word, directions.first, key, start, stop), directions.num
    )
    return out


@kernel
def _stage_kernel(out, word, first_direction, key, start, stop):
    """Directions start … stop - 1 of out [K, padded rows, words a row]."""
    sign_words(out[start:stop], 0, word, first_direction + start, key)
