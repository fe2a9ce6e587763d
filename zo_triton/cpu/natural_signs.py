"""Full-rank signs of layers in torch's own order: what a direction adds to δWᵀ, and small layers whole.

To ask torch for a small product takes longer than to make it, and there is one for each evaluation. So all runs of
a small layer are one call of compiled code, which makes the products as well, each sum in the order of its inputs.
"""

from __future__ import annotations

import numpy as np
import torch
from numba import uintp
from torch import Tensor

from zo_triton.cpu.activating import activate_rows
from zo_triton.cpu.activation import NONE
from zo_triton.cpu.compiling import device, kernel, routine
from zo_triton.cpu.fixed_point import fixed_sign_product, to_fixed_point
from zo_triton.cpu.scalars import load, store
from zo_triton.cpu.sharing import shared
from zo_triton.cpu.signs import TABLES, draw_layer, line_of_floats, sign_product
from zo_triton.cpu.turning import add_to_rows, sum_of_rows
from zo_triton.cpu.vectors import LANES, dense_rows

ROWS_TOGETHER = 1024
"""Rows of U whose float32 totals for 32 samples are made before they are added: 128 KiB."""

SMALL_PRODUCT = 1 << 20
"""Multiplications of a run's product up to which it is made here: of four times as many torch's is as quick."""

SMALL_PIECE = 1 << 18
"""Multiplications that a thread takes at a time, if there are several directions of them."""

_SAMPLES = 4
"""Whose products with 32 columns of Wᵀ keep the processor busiest: see ``dense_rows``."""


def in_whole_lines(weight: Tensor) -> np.ndarray:
    """Wᵀ, [in, out], as a small layer's product reads it: float32, zeros after a row up to a multiple of 32."""
    inner, rows = weight.shape
    lines = weight.new_zeros(inner, -(-rows // LANES) * LANES, dtype=torch.float32)
    lines[:, :rows] = weight
    return lines.numpy()


@kernel
def draw_kernel(words, bias, transposed, inner, weight_word, bias_word, index, key):
    """One direction's signs; see ``draw_layer``."""
    draw_layer(words, bias, transposed, inner, weight_word, bias_word, index, key)


@kernel
def signs_kernel(
    out, p, first, samples, base, moved, source, source_first, words, bias, signed_eps, a, first_term, second_term,
    kind,
):  # fmt: skip
    """``out += step·((a+δ)Uᵀ + v)`` and the activation, for the samples ``first`` … of evaluation ``p``.

    out [P, N, rows], moved [any, any, in]: float32 or bfloat16 bits; of ``moved`` the evaluation ``source``, from
    the sample ``source_first`` on. base: float32 [N, in]. words: uint32 [1, at least rows, words a row], or without
    rows for a weight that is not trained. bias: float32 [rows].
    """
    ours, theirs = out[p, first : first + samples], moved[source, source_first:]
    space = _space_for(words, ours)
    _add_signs(ours, first, base, theirs, words, bias, signed_eps[p], space, a, first_term, second_term, kind)


@shared
def small_kernel(
    out, base, moved, weight, weight_word, bias_word, transposed, key, first_direction, sides, length, signed_eps,
    a, first_term, second_term, kind, start, stop,
):  # fmt: skip
    """``out[p] = activation(δWᵀ + step·((a+δ)Uᵀ + v))`` for the runs start … stop - 1, an evaluation's in turn.

    A run is ``length`` samples of an evaluation, or what is left of it. out [P, N, rows], moved [P, N, in]: float32
    or bfloat16 bits. base: float32 [N, in]. weight: Wᵀ from :func:`in_whole_lines`. weight_word, bias_word: their
    tensors', -1 where they are not trained.
    """
    samples, inner = base.shape
    rows, runs, drawn = out.shape[2], (samples + length - 1) // length, -1
    words = np.zeros((1, (rows + 3) // 4 * 4 if weight_word >= 0 else 0, (inner + 31) // 32), np.uint32)
    bias, lines = np.zeros(rows, np.float32), np.zeros((_SAMPLES, inner), np.float32)
    made, space = np.empty((_SAMPLES, LANES), np.float32), _space_for(words, out[0])
    for each in range(start, stop):
        p, first = each // runs, each % runs * length
        if p // sides != drawn:
            drawn = p // sides
            draw_layer(words, bias, transposed, inner, weight_word, bias_word, first_direction + drawn, key)
        ours, theirs = out[p, first : min(first + length, samples)], moved[p, first:]
        _multiply(ours, theirs, weight, lines, made)
        _add_signs(
            ours, first, base, theirs, words, bias, signed_eps[p], space, a, first_term, second_term, kind
        )


@routine
def _multiply(out, moved, weight, lines, made):
    """``out = moved @ Wᵀ``, out [n, rows] and moved [at least n, in], in memory for lines [4, in], made [4, 32]."""
    (samples, rows), (inner, padded) = out.shape, weight.shape
    lines_at, made_at = uintp(lines.ctypes.data), uintp(made.ctypes.data)
    for sample in range(0, samples, _SAMPLES):
        count = min(_SAMPLES, samples - sample)
        for i in range(count):
            source, line = moved[sample + i], lines[i]
            for column in range(inner):
                line[column] = load(source[column])
        weight_at = uintp(weight.ctypes.data)
        for row in range(0, rows, LANES):
            dense_rows(made_at, lines_at, inner, weight_at, padded, inner)
            weight_at += uintp(4 * LANES)
            for i in range(count):
                target, totals = out[sample + i, row : row + LANES], made[i]
                for j in range(target.size):
                    store(target, j, totals[j])


@device
def _space_for(words, out):
    """What :func:`_add_signs` works in: inputs, totals and tables, and in bfloat16 the inputs in fixed point."""
    rows, narrow = min(out.shape[1], ROWS_TOGETHER), out.itemsize == 2
    x = np.zeros((32 * words.shape[2], LANES), np.float32)
    totals = line_of_floats(rows * LANES)
    totals[:] = np.float32(0.0)
    short = np.zeros((x.shape[0] if narrow else 0, LANES), np.int16)
    scale, inverse = np.zeros(LANES, np.float32), np.zeros(LANES, np.float32)
    return x, totals.reshape(rows, LANES), line_of_floats(TABLES), short, scale, inverse


@routine
def _add_signs(out, first, base, moved, words, bias, step, space, a, first_term, second_term, kind):
    """``out += step·((a+δ)Uᵀ + v)`` and the activation, for a run, the samples from ``first`` on: out [n, rows]."""
    x, totals, tables, short, scale, inverse = space
    samples, rows = out.shape
    beneath, narrow, trained, block = base[first:], out.itemsize == 2, words.shape[1] > 0, totals.shape[0]
    for sample in range(0, samples, LANES):
        lanes = min(LANES, samples - sample)
        if trained:
            sum_of_rows(x, beneath, moved, sample, lanes)
            if narrow:
                to_fixed_point(short, scale, x, inverse)
        for row in range(0, rows, block):
            count = min(block, rows - row)
            signs = words[0, row : row + count]
            if trained and narrow:
                fixed_sign_product(totals, signs, short, scale, tables)
            elif trained:
                sign_product(totals.reshape(1, block, LANES), 0, signs, x, tables, LANES)
            add_to_rows(out, sample, lanes, row, totals[:count], bias[row : row + count], step)
        if kind != NONE:
            activate_rows(out[sample : sample + lanes], first + sample, a, first_term, second_term, kind)
