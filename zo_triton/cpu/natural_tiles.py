"""A full-rank layer in squares of products, for float32 differences.

δWᵀ + sε(a+δ)Uᵀ is one product, of [δ, sε(a+δ)] and [Wᵀ; Uᵀ], and a square of its result is made in one go. Signs
are exact in bfloat16, and the step sε, which might not be, is multiplied in before. All else is rounded to
bfloat16, or comes in three parts: those of W are made once for all directions of a call.
"""

from __future__ import annotations

import numpy as np
from numba import uintp
from torch import Tensor

from zo_triton.cpu.activating import activate_rows
from zo_triton.cpu.activation import NONE
from zo_triton.cpu.addresses import matrix_at
from zo_triton.cpu.compiling import kernel, routine
from zo_triton.cpu.signs import draw_layer, line_of_floats
from zo_triton.cpu.squares import (
    add_first_parts,
    add_small_parts,
    begin_square,
    begin_tiles,
    end_tiles,
    store_square,
)
from zo_triton.cpu.tiles import (
    new_left,
    pack_columns,
    pack_rows,
    pack_signs,
    pack_sums,
    padded,
    right_tiles,
)
from zo_triton.cpu.vectors import LANES

NOISE_ELEMENTS = 1 << 20
"""Signs that lie there in bfloat16 at a time: 2 MiB, a level-2 cache."""

ROWS_TOGETHER = 64
"""Samples whose factors are packed at a time: in three parts, of 1024 values each, they take 768 KiB."""


def packed(weight: Tensor, parts: int) -> np.ndarray:
    """Wᵀ, float32 [in, out], as a right factor in so many parts."""
    inner, columns = weight.shape
    tiles = right_tiles(inner, columns, parts)
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
    return right_tiles(inner, min(columns, most), 1)


@kernel
def tiles_kernel(
    out, base, lying, weight, noise, bias, weight_word, bias_word, transposed, key, first_direction, sides, length,
    signed_eps, a, first_term, second_term, kind, start, stop,
):  # fmt: skip
    """``out[p] = activation(δWᵀ + step·((a+δ)Uᵀ + v))`` for the runs start … stop - 1, an evaluation's in turn.

    A run is ``length`` samples of an evaluation, or what is left of it. out: float32 [P, N, columns]. base: float32
    [N, in]. lying: where δ is, int64 [3]: its address, and how many values evaluations and rows are apart. weight:
    Wᵀ as a right factor. noise: Uᵀ as a right factor, or memory for its signs, of all columns or of a part; without
    any for a weight that is not trained. bias: v, float32 [columns], or memory for its signs. weight_word,
    bias_word: the tensors' whose signs are drawn here, or -1.
    """
    samples, inner = base.shape
    runs, trained, drawn_rows = (samples + length - 1) // length, noise.shape[0] > 0, 0
    if weight_word >= 0:
        drawn_rows = LANES * (weight.shape[0] // 2)
    address, between, pitch = lying
    words, drawn = np.zeros((1, drawn_rows, (inner + 31) // 32), np.uint32), -1
    # Memory that is new takes the system longer to give than a run to fill.
    change = new_left(min(length, ROWS_TOGETHER), inner, weight.shape[2])
    total = new_left(min(length, ROWS_TOGETHER) if trained else 0, inner, weight.shape[2])
    begin_tiles()
    for each in range(start, stop):
        p, first = each // runs, each % runs * length
        fresh, count = p // sides != drawn, min(length, samples - first)
        if fresh:
            drawn = p // sides
            draw_layer(words, bias, transposed, inner, weight_word, bias_word, first_direction + drawn, key)
        moved = matrix_at(uintp(address + 4 * (p * between + first * pitch)), count, pitch)
        _run(
            out[p, first : first + count], first, base, moved, change, total, weight, words[0], fresh, noise, bias,
            signed_eps[p], a, first_term, second_term, kind,
        )  # fmt: skip
    end_tiles()


@kernel
def product_kernel(out, x, weight):
    """``out = x @ Wᵀ``: float32 [samples, columns] from [samples, in] and Wᵀ as a right factor."""
    rows, inner = x.shape
    change = new_left(min(rows, ROWS_TOGETHER), inner, weight.shape[2])
    zeros, sums = np.zeros(LANES, np.float32), np.empty((LANES, LANES), np.float32)
    begin_tiles()
    for row in range(0, rows, ROWS_TOGETHER):
        count = min(ROWS_TOGETHER, rows - row)
        pack_rows(change, x, row, count, inner, np.float32(1.0))
        for column_block in range(weight.shape[0] // 2):
            for block in range((count + LANES - 1) // LANES):
                begin_square(sums, zeros, 0)
                add_small_parts(sums, change, block, weight, column_block)
                add_first_parts(sums, change, block, weight, column_block)
                store_square(out, row + LANES * block, column_block, sums)
    end_tiles()


@routine
def _run(
    out, first, base, moved, change, total, weight, words, fresh, noise, bias, step, a, first_term, second_term,
    kind,
):  # fmt: skip
    """One run, the samples from ``first`` on: out [samples, columns], moved δ [samples, at least in].

    change, total: memory for rows of δ and of step·(a+δ) as left factors. words: packed signs uint32 [columns of
    the right factor, words a row]; if ``fresh``, ``noise`` does not yet hold them. bias: float32 [columns].
    """
    samples, inner, all_blocks = out.shape[0], base.shape[1], weight.shape[0] // 2
    trained, signs = noise.shape[0] > 0, words.shape[0] > 0
    group = noise.shape[0] // 2 if trained else all_blocks
    sums, shift = np.empty((LANES, LANES), np.float32), line_of_floats(LANES * all_blocks)
    shift[:] = np.float32(0.0)
    for column in range(bias.size):
        shift[column] = step * bias[column]
    for start in range(0, all_blocks, group):
        blocks = min(group, all_blocks - start)
        if signs and (fresh or group < all_blocks):
            pack_signs(noise[: 2 * blocks], words[LANES * start :])
        for row in range(0, samples, ROWS_TOGETHER):
            rows = min(ROWS_TOGETHER, samples - row)
            pack_rows(change, moved, row, rows, inner, np.float32(1.0))
            if trained:
                pack_sums(total, base, first + row, moved, row, rows, inner, step)
            for column_block in range(blocks):
                for block in range((rows + LANES - 1) // LANES):
                    begin_square(sums, shift, start + column_block)
                    add_small_parts(sums, change, block, weight, start + column_block)
                    if trained:
                        add_small_parts(sums, total, block, noise, column_block)
                    add_first_parts(sums, change, block, weight, start + column_block)
                    if trained:
                        add_first_parts(sums, total, block, noise, column_block)
                    store_square(out, row + LANES * block, start + column_block, sums)
            if kind != NONE and start + blocks == all_blocks:
                activate_rows(out[row : row + rows], first + row, a, first_term, second_term, kind)
