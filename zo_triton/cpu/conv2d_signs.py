"""A convolution of the base by random signs, a*U + v for a group of directions, through the table product.

A run of 32 outputs is gathered into patches once; the tables made of them serve every direction's every channel.
The sums of a block of outputs stay in the cache until they leave as whole rows of the image.
"""

from __future__ import annotations

import numpy as np
from numba import float32, uint32, uintp

from zo_triton.cpu.activating import activate
from zo_triton.cpu.activation import NONE, RELU
from zo_triton.cpu.compiling import device, kernel
from zo_triton.cpu.field import sign_words
from zo_triton.cpu.patches import copy_vector, find_pieces, gather, spread
from zo_triton.cpu.scalars import store
from zo_triton.cpu.signs import TABLES, line_of_floats, sign_product
from zo_triton.cpu.vectors import LANES, WIDTH, finish_run


@kernel
def sign_convolution(
    out, out_sample, base, first_sample, last_sample, shifts, groups, signed_eps, sides, a, first_term, second_term,
    kind, weight_word, bias_word, key, index, geometry,
):  # fmt: skip
    """Activation(step·(a*U + v)) for some directions from ``index`` on and some samples.

    out: float32 or bfloat16 [evaluations, samples from ``out_sample`` on, out, H'·W']. base: float32 [N, in, H·W].
    shifts: see ``patches.plan``. signed_eps: [evaluations]. a, first_term, second_term: what the activation reads
    of the base, float32 [N·out·H'·W'], or empty without one. The words are -1 where nothing is trained.
    """
    g, outputs = geometry, out.shape[2]
    count, rows, width = signed_eps.size // sides, outputs // groups, (shifts.size + LANES - 1) // LANES
    sheet_size = g.channels * g.stride_height * g.stride_width * g.sheet_height * g.sheet_width
    group_bytes = uintp(4 * (sheet_size // groups))
    runs = (g.samples * g.band * g.out_width + LANES - 1) // LANES
    # An odd number of vectors: rows a power of two apart would meet in the same sets of the cache.
    line = (2 * runs + 1) * WIDTH
    words = np.zeros((groups, count * rows, width), np.uint32)
    bias = np.zeros((count, outputs), np.float32)
    _draw_signs(words, bias, weight_word, bias_word, index, key)
    sheets = np.zeros(g.samples * sheet_size + 2 * LANES, np.float32)
    split = sheets[: g.samples * sheet_size].reshape(g.samples, sheet_size)
    x = np.zeros((LANES * width + 1, LANES), np.float32)
    tables = line_of_floats(TABLES)
    tile = np.empty((1, count * rows, LANES), np.float32)
    totals = np.zeros((groups * count * rows, line), np.float32)
    pieces, counts = np.empty((runs, LANES, 2), np.int64), np.empty(runs, np.int64)
    for sample in range(first_sample, last_sample, g.samples):
        some = min(g.samples, last_sample - sample)
        for top in range(0, g.out_height, g.band):
            band = min(g.band, g.out_height - top)
            lanes = some * band * g.out_width
            if weight_word >= 0:
                find_pieces(pieces, counts, lanes, band, sheet_size, g)
                spread(split, base, sample, some, top, band, g)
                corner = uintp(sheets.ctypes.data) + uintp(4 * top * g.sheet_width)
                for run in range((lanes + LANES - 1) // LANES):
                    for group in range(groups):
                        gather(x, corner + uintp(group) * group_bytes, shifts, pieces[run], counts[run])
                        sign_product(tile, 0, words[group], x[: LANES * width], tables, LANES)
                        _copy_tile(totals[group * count * rows : (group + 1) * count * rows], tile, run)
            for p in range(count * sides):
                k = p // sides
                _finish_block(
                    out[p], totals, bias[k], k, count, rows, signed_eps[p], sample - out_sample, some,
                    top * g.out_width, band * g.out_width, a, first_term, second_term, kind,
                )  # fmt: skip


@device
def _draw_signs(words, bias, weight_word, bias_word, index, key):
    """Packed signs of a group, words [groups, directions·rows, words a row], and its bias signs as numbers."""
    groups, width = words.shape[0], words.shape[2]
    count, outputs = bias.shape
    rows = outputs // groups
    if weight_word >= 0:
        drawn = np.empty((count, (outputs + 3) // 4 * 4, width), np.uint32)
        sign_words(drawn, 0, weight_word, index, key)
        for k in range(count):
            for row in range(outputs):
                for column in range(width):
                    words[row // rows, k * rows + row % rows, column] = drawn[k, row, column]
    if bias_word >= 0:
        packed = np.empty((count, 4, (outputs + LANES - 1) // LANES), np.uint32)
        sign_words(packed, 0, bias_word, index, key)
        for k in range(count):
            for row in range(outputs):
                bit = (packed[k, 0, row // LANES] >> uint32(row % LANES)) & uint32(1)
                bias[k, row] = float32(1.0) if bit else float32(-1.0)


@device
def _copy_tile(lines, tile, run):
    """The run's columns of ``lines`` [rows, at least 32·runs]."""
    for row in range(lines.shape[0]):
        target = uintp(lines[row].ctypes.data) + uintp(4 * LANES * run)
        source = uintp(tile.ctypes.data) + uintp(4 * LANES * row)
        copy_vector(target, source)
        copy_vector(target + uintp(4 * WIDTH), source + uintp(4 * WIDTH))


@device
def _finish_block(
    out, totals, bias, k, count, rows, step, sample, some, start, length, a, first_term, second_term, kind
):
    """out[sample …, :, start …] = activation(step·(totals + bias)) for a block of one evaluation.

    out [N, out, H'·W']. totals [groups·count·rows, at least some·length] hold ``count`` directions in each group.
    """
    outputs, size = out.shape[1:]
    steps = np.empty(length, np.float32)
    vectors = (length + WIDTH - 1) // WIDTH if kind in (NONE, RELU) and length >= WIDTH else 0
    for n in range(some):
        for row in range(outputs):
            total, target = totals[((row // rows) * count + k) * rows + row % rows], out[sample + n, row]
            place, first = uintp(((sample + n) * outputs + row) * size + start), uintp(n * length)
            to, total_at = uintp(target[start:].ctypes.data), uintp(total.ctypes.data) + uintp(4) * first
            base_at = uintp(a.ctypes.data) + uintp(4) * place
            for vector in range(vectors):
                # The last vector overlaps the one before it: the same values are written twice.
                j = uintp(min(vector * WIDTH, length - WIDTH))
                at, out_at = uintp(4) * j, to + uintp(out.itemsize) * j
                finish_run(
                    out_at,
                    to,
                    total_at + at,
                    base_at + at,
                    step,
                    bias[row],
                    False,
                    kind == RELU,
                    out.itemsize == 2,
                    False,
                )
            if vectors > 0:
                continue
            for j in range(length):
                steps[j] = step * (total[first + uintp(j)] + bias[row])
            if kind != NONE:
                activate(steps, a, first_term, second_term, place, length, kind)
            for j in range(length):
                store(target, uintp(start) + uintp(j), steps[j])
