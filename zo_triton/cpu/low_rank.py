"""A layer whose directions have low rank, U = A·Bᵀ/√r: U @ x is two thin products, and U never exists.

U @ (a+δ) = A/√r @ (Bᵀa + Bᵀδ): Bᵀa is one product for all directions, and a first layer has nothing else. What is
left of a layer's work is W @ δ: one product with weights that all directions share.
"""

from __future__ import annotations

import numpy as np
import torch
from numba import float32, intp, uintp

from zo_triton.cpu.bfloat16 import ROWS, pack_rows, pack_run, pair_product
from zo_triton.cpu.compiling import routine
from zo_triton.cpu.field import code_of, draw_turned, key_of
from zo_triton.cpu.layer import Layer, finish, run_layer
from zo_triton.cpu.scalars import load
from zo_triton.cpu.sharing import shared
from zo_triton.cpu.signs import line_of_floats
from zo_triton.cpu.vectors import LANES, dense_rows
from zo_triton.directions import PART_LEFT, PART_RIGHT, tensor_word

GRAIN = 4
"""Directions that a thread takes at a time: factors go through a product in fours."""


def run_low_rank(layer: Layer) -> None:
    """All directions."""
    d, shape = layer.directions, layer.weight.shape
    rank = d.rank if layer.weight_id >= 0 and d.rank is not None else 0
    # Factors of a transposed tensor change places: Uᵀ = B·Aᵀ/√r.
    words = [*factor_words(max(0, layer.weight_id))][:: -1 if layer.transposed else 1]
    words += [-1 if layer.bias_id < 0 else tensor_word(layer.bias_id)]
    arguments = (
        layer.out, layer.moved, layer.packed, layer.base, *shape, rank, layer.samples, *layer.terms, layer.kind,
        layer.signed_eps, layer.sides, *words, d.first, key_of(d), code_of(d), layer.dtype == torch.bfloat16,
    )  # fmt: skip
    run_layer(layer, _kernel, arguments, GRAIN)


def factor_words(tensor_id: int) -> tuple[int, int]:
    """The counter words of a tensor's factors A and B."""
    return tensor_word(tensor_id, PART_LEFT), tensor_word(tensor_id, PART_RIGHT)


@routine
def draw_factors_of(left, turned, right, rows, inner, left_word, right_word, index, key, code, rounded):
    """One direction's factors: left[:rows] = A/√r, float32 [at least rows, r]; right = Bᵀ [r, at least inner].

    turned: scratch, float32 [r, at least rows].
    """
    rank = left.shape[1]
    draw_turned(turned, rows, left_word, index, key, code, rounded)
    scale = float32(np.sqrt(rank))
    for row in range(rows):
        for j in range(rank):
            left[row, j] = turned[j, row] / scale
    draw_turned(right, inner, right_word, index, key, code, rounded)


@shared
def _kernel(
    product, out, difference, packed, base, rows, inner, rank, samples, a, first_term, second_term, kind,
    signed_eps, sides, left_word, right_word, bias_word, first_direction, key, code, rounded, start, stop,
):  # fmt: skip
    """Directions start … stop - 1 of one layer.

    ``product`` holds their W @ δ; it is empty if W is ``packed``, and in a first layer. base: float32 [runs of
    32 samples, at least in, 32].
    """
    carried, inline, count = difference.shape[0] > 0, packed.shape[0] > 0, stop - start
    # Rows go through a product in fours, or in eights where it is one of pairs.
    left = np.zeros((count, (rows + 3) // 4 * 4, rank), np.float32)
    right = np.zeros(((count * rank + 3) // 4 * 4, inner), np.float32)
    bias = np.zeros((count, rows), np.float32)
    turned = np.empty((rank, rows), np.float32)
    for k in range(count):
        index = first_direction + start + k
        if rank > 0:
            ours = right[k * rank : (k + 1) * rank]
            draw_factors_of(
                left[k], turned, ours, rows, inner, left_word, right_word, index, key, code, rounded
            )
        if bias_word >= 0:
            draw_turned(bias[k].reshape(rows, 1), 1, bias_word, index, key, code, rounded)
    through = _base_products(right, base)
    thin = np.zeros(((rank + ROWS - 1) // ROWS * ROWS, LANES), np.float32)
    plain = np.zeros((thin.shape[0] if carried and not inline else 0, inner), np.float32)
    moved = np.zeros((inner if plain.shape[0] > 0 else 0, LANES), np.float32)
    paired = np.empty((thin.shape[0] // ROWS, packed.shape[1], ROWS), np.uint32)
    first_column = intp(0)  # a variable, or the epilogue would be compiled for it apart
    made = np.empty((packed.shape[0] * packed.shape[2], LANES), np.float32)
    pairs = np.zeros((packed.shape[1], LANES), np.uint32)
    totals = line_of_floats(left.shape[1] * LANES)
    totals[:] = float32(0.0)
    sums = totals.reshape(1, left.shape[1], LANES)
    for k in range(count):
        ours = right[k * rank : (k + 1) * rank]
        if inline:
            pack_rows(paired, ours)
        elif carried:
            plain[:rank] = ours
        for side in range(sides if carried else 1):
            p = (start + k) * sides + side
            for run in range(through.shape[0]):
                sample = run * LANES
                lanes = min(LANES, samples - sample)
                if inline:
                    pack_run(pairs, difference[p], inner, sample, samples)
                    pair_product(made, 0, packed, pairs)
                    pair_product(thin, 0, paired, pairs)
                elif carried:
                    _spread(moved, difference[p], sample, lanes)
                    _product(uintp(thin.ctypes.data), plain, uintp(moved.ctypes.data))
                else:
                    thin[:] = float32(0.0)
                thin[:rank] += through[run, k * rank : (k + 1) * rank]
                if rank > 0:
                    _product(uintp(totals.ctypes.data), left[k], uintp(thin.ctypes.data))
                if inline:
                    finish(
                        out[p], made, first_column, carried, sums[:, :rows], bias[k], signed_eps[p], sample, lanes,
                        a, first_term, second_term, kind,
                    )  # fmt: skip
                    continue
                if carried:
                    finish(
                        out[p], product[k * sides + side], sample, carried, sums[:, :rows], bias[k], signed_eps[p],
                        sample, lanes, a, first_term, second_term, kind,
                    )  # fmt: skip
                    continue
                for s in range(sides):
                    finish(
                        out[p + s], made, first_column, carried, sums[:, :rows], bias[k], signed_eps[p + s], sample,
                        lanes, a, first_term, second_term, kind,
                    )  # fmt: skip


@routine
def _base_products(right, base):
    """Bᵀa of all directions: float32 [runs, terms, 32] from right [terms, in] and base [runs, at least in, 32]."""
    through = np.empty((base.shape[0], right.shape[0], LANES), np.float32)
    for run in range(through.shape[0]):
        _product(uintp(through[run].ctypes.data), right, uintp(base[run].ctypes.data))
    return through


@routine
def _spread(moved, difference, sample, lanes):
    """δ of 32 samples in float32: moved [in, 32] from difference [at least in, N]."""
    for row in range(moved.shape[0]):
        source, target = difference[row], moved[row]
        for lane in range(lanes):
            target[lane] = load(source[uintp(sample) + uintp(lane)])


@routine
def _product(out_at, matrix, x_at):
    """``out = matrix @ x`` for 32 lanes; matrix float32 [a multiple of four rows, cols], x [cols, 32]."""
    rows, cols = matrix.shape
    matrix_at = uintp(matrix.ctypes.data)
    for row in range(0, rows, 4):
        shift = uintp(row)
        dense_rows(
            out_at + shift * uintp(4 * LANES), matrix_at + shift * uintp(4 * cols), cols, x_at, LANES, cols,
        )  # fmt: skip
