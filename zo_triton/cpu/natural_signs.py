"""Full-rank signs of layers in torch's own order: what a direction adds to δWᵀ, and some layers whole.

To ask torch for a small product takes longer than to make it, and there is one for each evaluation; and on AMD's
processors its products of any size take longer. So all runs of such a layer are one call of compiled code, which
makes the products as well, each sum in the order of its inputs.
"""

from __future__ import annotations

import numpy as np

from zo_triton.cpu.activating import activate_rows
from zo_triton.cpu.activation import NONE
from zo_triton.cpu.compiling import device, kernel, routine
from zo_triton.cpu.fixed_point import fixed_sign_product, to_fixed_point
from zo_triton.cpu.panels import SAMPLES_TOGETHER, lines_for, multiply_panels
from zo_triton.cpu.sharing import shared
from zo_triton.cpu.signs import TABLES, draw_layer, line_of_floats, sign_product
from zo_triton.cpu.turning import STAGED, add_to_rows, sum_of_rows
from zo_triton.cpu.vectors import LANES

ROWS_TOGETHER = 1024
"""Rows of U whose float32 totals for 32 samples are made before they are added: 128 KiB."""

SMALL_PRODUCT = 1 << 20
"""Multiplications of a run's product up to which it is made here: of four times as many torch's is as quick."""

SMALL_PIECE = 1 << 18
"""Multiplications that a thread takes at a time, if there are several directions of them."""


@kernel
def draw_kernel(words, bias, transposed, inner, weight_word, bias_word, index, key):
    """One direction's signs; see ``draw_layer``."""
    draw_layer(words, bias, transposed, inner, weight_word, bias_word, index, key)


@kernel
def signs_kernel(
    out, p, first, samples, base, moved, source, source_first, words, bias, signed_eps, rounded, a, first_term,
    second_term, kind,
):  # fmt: skip
    """``out += step·((a+δ)Uᵀ + v)`` and the activation, for the samples ``first`` … of evaluation ``p``.

    out [P, N, rows], moved [any, any, in]: float32 or bfloat16 bits; of ``moved`` the evaluation ``source``, from
    the sample ``source_first`` on. base: float32 [N, in]. words: uint32 [1, at least rows, words a row], or without
    rows for a weight that is not trained. bias: float32 [rows]. rounded: whether a + δ may be, to fixed point.
    """
    ours, theirs = out[p, first : first + samples], moved[source, source_first:]
    space = _space_for(words, ours, rounded)
    _add_signs(
        ours, first, base, theirs, words, bias, signed_eps[p], rounded, space, a, first_term, second_term, kind,
    )  # fmt: skip


@shared
def layer_kernel(
    out, base, moved, weight, weight_word, bias_word, transposed, key, first_direction, sides, length, signed_eps,
    rounded, a, first_term, second_term, kind, start, stop,
):  # fmt: skip
    """``out[p] = activation(δWᵀ + step·((a+δ)Uᵀ + v))`` for the runs start … stop - 1, an evaluation's in turn.

    A run is ``length`` samples of an evaluation, or what is left of it. out [P, N, rows], moved [P, N, in]: float32
    or bfloat16 bits. base: float32 [N, in]. weight: Wᵀ from ``in_panels``. weight_word, bias_word: their
    tensors', -1 where they are not trained. rounded: whether a + δ may be, to fixed point.
    """
    samples, inner = base.shape
    rows, runs, drawn = out.shape[2], (samples + length - 1) // length, -1
    words = np.zeros((1, (rows + 3) // 4 * 4 if weight_word >= 0 else 0, (inner + 31) // 32), np.uint32)
    bias, space, (lines, made) = (
        np.zeros(rows, np.float32),
        _space_for(words, out[0], rounded),
        lines_for(weight, inner),
    )
    for each in range(start, stop):
        p, first = each // runs, each % runs * length
        if p // sides != drawn:
            drawn = p // sides
            draw_layer(words, bias, transposed, inner, weight_word, bias_word, first_direction + drawn, key)
        last = min(first + length, samples)
        for sample in range(first, last, SAMPLES_TOGETHER):
            ours, theirs = out[p, sample : min(sample + SAMPLES_TOGETHER, last)], moved[p, sample:]
            multiply_panels(ours, theirs, weight, lines, made)
            _add_signs(
                ours, sample, base, theirs, words, bias, signed_eps[p], rounded, space, a, first_term, second_term,
                kind,
            )  # fmt: skip


@device
def _space_for(words, out, rounded):
    """What :func:`_add_signs` works in: inputs, totals, tables, and in fixed point the inputs if they are rounded.

    The last is where totals are turned over.
    """
    rows, columns = min(out.shape[1], ROWS_TOGETHER), 32 * words.shape[2]
    x, totals = line_of_floats(columns * LANES), line_of_floats(rows * LANES)
    x[:], totals[:] = np.float32(0.0), np.float32(0.0)
    tables, staged = line_of_floats(TABLES), line_of_floats(STAGED)
    short = np.zeros((columns if rounded else 0, LANES), np.int16)
    scale, inverse = np.zeros(LANES, np.float32), np.zeros(LANES, np.float32)
    x, totals = x.reshape(columns, LANES), totals.reshape(rows, LANES)
    return x, totals, tables, short, scale, inverse, staged


@routine
def _add_signs(
    out, first, base, moved, words, bias, step, rounded, space, a, first_term, second_term, kind,
):  # fmt: skip
    """``out += step·((a+δ)Uᵀ + v)`` and the activation, for a run, the samples from ``first`` on: out [n, rows]."""
    x, totals, tables, short, scale, inverse, staged = space
    samples, rows = out.shape
    beneath, trained, block = base[first:], words.shape[1] > 0, totals.shape[0]
    for sample in range(0, samples, LANES):
        lanes = min(LANES, samples - sample)
        if trained:
            sum_of_rows(x, beneath, moved, sample, lanes)
            if rounded:
                to_fixed_point(short, scale, x, inverse)
        for row in range(0, rows, block):
            count = min(block, rows - row)
            signs = words[0, row : row + count]
            if trained and rounded:
                fixed_sign_product(totals, signs, short, scale, tables)
            elif trained:
                sign_product(totals.reshape(1, block, LANES), 0, signs, x, tables, LANES)
            add_to_rows(out, sample, lanes, row, totals[:count], bias[row : row + count], step, staged)
        if kind != NONE:
            activate_rows(out[sample : sample + lanes], first + sample, a, first_term, second_term, kind)
