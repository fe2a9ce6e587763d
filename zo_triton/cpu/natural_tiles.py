"""A layer's signs and its weights in the matrix unit, for float32 differences whose factors may be rounded.

δWᵀ + sε(a+δ)Uᵀ is one product, of [δ, sε(a+δ)] and [Wᵀ; Uᵀ], and a square of its result is made in one go. Signs
are exact in bfloat16, and the step sε, which might not be, is multiplied in before the rounding.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from zo_triton.cpu.activating import activate_rows
from zo_triton.cpu.activation import NONE
from zo_triton.cpu.compiling import kernel
from zo_triton.cpu.matrix_unit import (
    DEPTH,
    add_to_square,
    begin_square,
    begin_tiles,
    end_tiles,
    pack_columns,
    pack_rows,
    pack_signs,
    pack_sums,
    padded,
    right_tiles,
    store_square,
)
from zo_triton.cpu.vectors import LANES

NOISE_ELEMENTS = 1 << 20
"""Signs that lie there in bfloat16 at a time: 2 MiB, a level-2 cache."""

ROWS_TOGETHER = 128
"""Samples whose factors are packed at a time where the layer's signs are all there."""


def packed(weight: Tensor) -> np.ndarray:
    """Wᵀ, float32 [in, out], as a right factor."""
    inner, columns = weight.shape
    tiles = right_tiles(inner, columns)
    transposed = not weight.is_contiguous()
    matrix = weight.T.contiguous() if transposed else weight
    _pack_kernel(tiles, matrix.numpy(), transposed, inner, columns)
    return tiles


@kernel
def _pack_kernel(tiles, matrix, transposed, inner, columns):
    pack_columns(tiles, matrix, transposed, inner, columns)


def noise_tiles(inner: int, columns: int) -> np.ndarray:
    """Memory for the signs of a direction, or of as many columns at a time as may be there."""
    most = max(LANES, NOISE_ELEMENTS // padded(inner) // LANES * LANES)
    return right_tiles(inner, min(columns, most))


@kernel
def tiles_kernel(
    out, p, first, samples, base, moved, weight, words, fresh, noise, bias, signed_eps, a,
    first_term, second_term, kind,
):  # fmt: skip
    """``out = activation(δWᵀ + step·((a+δ)Uᵀ + v))`` for the samples ``first`` … of evaluation ``p``.

    out: float32 [P, N, columns]. base: float32 [N, in]. moved: δ of these samples, float32 [samples, in]. weight:
    Wᵀ as a right factor. words: packed signs uint32 [1, columns of the right factor, words a row], or without rows
    for a weight that is not trained. noise: memory for Uᵀ as a right factor, of all columns or of a part; ``fresh``
    says that it does not hold these signs yet. bias: float32 [columns].
    """
    ours, step = out[p, first : first + samples], signed_eps[p]
    trained, all_blocks = words.shape[1] > 0, weight.shape[0] // 2
    group = noise.shape[0] // 2 if trained else all_blocks
    together = min(samples, ROWS_TOGETHER) if group == all_blocks else samples
    shape = 2 * ((together + LANES - 1) // LANES), weight.shape[1], 16, DEPTH
    change, total = np.empty(shape, np.uint16), np.empty(shape if trained else (0, 0, 16, DEPTH), np.uint16)
    scratch, shift = np.empty((LANES, LANES), np.float32), np.zeros(LANES * all_blocks, np.float32)
    for column in range(bias.size):
        shift[column] = step * bias[column]
    begin_tiles()
    for row in range(0, samples, together):
        rows = min(together, samples - row)
        pack_rows(change, moved, row, rows, moved.shape[1], np.float32(1.0))
        if trained:
            pack_sums(total, base, first + row, moved, row, rows, moved.shape[1], step)
        for start in range(0, all_blocks, group):
            blocks = min(group, all_blocks - start)
            if trained and (fresh or group < all_blocks):
                pack_signs(noise[: 2 * blocks], words[0, LANES * start :])
                fresh = False
            for block in range((rows + LANES - 1) // LANES):
                for column_block in range(blocks):
                    begin_square(shift, start + column_block)
                    add_to_square(change, block, weight, start + column_block)
                    if trained:
                        add_to_square(total, block, noise, column_block)
                    store_square(ours, row + LANES * block, start + column_block, scratch)
        if kind != NONE:
            activate_rows(ours[row : row + rows], first + row, a, first_term, second_term, kind)
    end_tiles()
