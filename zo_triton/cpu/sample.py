"""Materialises z."""

from __future__ import annotations

import numpy as np
import torch
from numba import uintp
from torch import Tensor

from zo_triton.cpu.arrays import draw_factors, draw_several, draw_whole
from zo_triton.cpu.field import key_of, sign_words
from zo_triton.cpu.sharing import shared
from zo_triton.cpu.threads import parallel, together
from zo_triton.directions import PART_WHOLE, Directions, matrix_shape, tensor_word

SMALL_ELEMENTS = 1 << 14
"""Matrices up to this size are drawn in one call: calling for each would take longer than drawing it."""

PIECE_ROWS = 16
"""Rows of a low-rank z that a thread forms at a time."""


def sample(
    out: Tensor, directions: Directions, tensor_id: int, dtype: torch.dtype, rows: Tensor | None = None
) -> None:
    """``out[k] = z_k``; same contract as the reference. Drawn in float32, or bfloat16 if ``dtype`` is."""
    shape = tuple(out.shape[1:])
    drawn = torch.bfloat16 if dtype == torch.bfloat16 else torch.float32
    if directions.is_low_rank(shape):
        _low_rank(out, *draw_factors(directions, tensor_id, shape, drawn, rows))
        return
    height, width = matrix_shape(shape)
    last = height if rows is None else int(rows.max()) + 1 if rows.numel() else 0
    if last * width <= SMALL_ELEMENTS:
        size = last, width
        if rows is None and out.dtype == torch.float32 and out.is_contiguous():
            draw_several(directions, tensor_id, PART_WHOLE, size, drawn, out)
            return
        several = draw_several(directions, tensor_id, PART_WHOLE, size, drawn)
        out.copy_((several if rows is None else several[:, rows]).view(out.shape))
        return

    def run(start: int, stop: int) -> None:
        for k in range(start, stop):
            out[k] = draw_whole(directions, directions.first + k, tensor_id, shape, drawn, rows).view(shape)

    parallel(run, directions.num)


def _low_rank(out: Tensor, left: Tensor, right: Tensor) -> None:
    """``out[k] = left[k] @ right[k].T``, the sum over the rank in order.

    torch.bmm's rounding depends on how many rows there are, and an element's value must not.
    """
    fits = out.is_contiguous() and out.dtype == torch.float32
    result = out if fits else torch.empty(out.shape, dtype=torch.float32, device="cpu")
    rows, cols = matrix_shape(out.shape[1:])
    arrays = (
        result.view(out.shape[0] * rows, cols).numpy(),
        left.flatten(0, 1).numpy(),
        right.mT.contiguous().numpy(),
    )
    together(_product_kernel, (*arrays, rows), out.shape[0] * rows, grain=PIECE_ROWS)
    if result is not out:
        out.copy_(result)


@shared
def _product_kernel(out, left, right, rows, start, stop):
    """Rows start … stop - 1 of all directions' one after the other: out [K·rows, cols], right [K, r, cols]."""
    for row in range(start, stop):
        target, factors, columns = out[row], left[row], right[row // rows]
        for rank in range(columns.shape[0]):
            factor, source = factors[rank], columns[rank]
            if rank == 0:
                for column in range(target.size):
                    target[uintp(column)] = factor * source[uintp(column)]
            else:
                for column in range(target.size):
                    target[uintp(column)] += factor * source[uintp(column)]


def stage(directions: Directions, tensor_id: int, rows: int, cols: int, device: torch.device) -> Tensor:
    """Packed signs of a matrix, int32 [K, 4·ceil(rows/4), ceil(cols/32)]; bit 1 is +1."""
    out = torch.empty(directions.num, -(-rows // 4) * 4, -(-cols // 32), dtype=torch.int32, device="cpu")
    words, word, key = out.numpy().view(np.uint32), tensor_word(tensor_id), key_of(directions)
    together(_stage_kernel, (words, word, directions.first, key), directions.num)
    return out


@shared
def _stage_kernel(out, word, first_direction, key, start, stop):
    """Directions start … stop - 1 of out [K, padded rows, words a row]."""
    sign_words(out[start:stop], 0, word, first_direction + start, key)
