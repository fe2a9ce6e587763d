"""The base of a small network for 32 samples side by side, in the layout of its step with signs on its outputs."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numba import float32, uintp

from zo_triton.cpu.compiling import device
from zo_triton.cpu.mlp import base_softmax
from zo_triton.cpu.node_mlp_vectors import turn_square
from zo_triton.cpu.vectors import LANES, WIDTH, dense_rows
from zo_triton.directions import PART_NODES, tensor_word

INNER, ROWS, ROW_AT, FIRST, STRIDE, INPUT_AT, WORD = range(7)
"""Columns of the layout: a layer's sizes; where its rows begin among those of all layers, each padded to fours; its
first column index; of its inputs as rows of samples, how far these are apart and where they begin; its counter
word.

One more row says where they end.
"""


@lru_cache(maxsize=64)
def node_layout(shapes: tuple[tuple[int, int], ...], samples: int) -> np.ndarray:
    """Sizes and places of the layers whose weights have these shapes, int64 [depth + 1, 7]."""
    layout = np.zeros((len(shapes) + 1, 7), np.int64)
    padded = -(-samples // LANES) * LANES
    for layer, (rows, inner) in enumerate(shapes):
        # An odd number of 32 columns: samples a power of two apart would meet in the same sets of the cache.
        stride = LANES * (-(-inner // LANES) | 1) if layer else 0
        layout[layer, [INNER, ROWS, STRIDE, WORD]] = inner, rows, stride, tensor_word(layer, PART_NODES)
        ends = -(-rows // 4) * 4, rows, padded * stride
        layout[layer + 1, [ROW_AT, FIRST, INPUT_AT]] = layout[layer, [ROW_AT, FIRST, INPUT_AT]] + ends
    return layout


@device
def turn_samples(turned, x, first, count):
    """``turned[i, j] = x[first + j, i]``, zeros beyond the last sample: float32 [at least in, 32]."""
    inner = x.shape[1]
    wide, whole = inner // WIDTH * WIDTH, count // WIDTH * WIDTH
    source_bytes, target_bytes = uintp(4 * inner), uintp(4 * LANES)
    for lane in range(0, whole, WIDTH):
        source, target = uintp(x[first + lane].ctypes.data), uintp(turned.ctypes.data) + uintp(4 * lane)
        for _ in range(0, wide, WIDTH):
            turn_square(target, target_bytes, source, source_bytes)
            source, target = source + uintp(4 * WIDTH), target + uintp(WIDTH) * target_bytes
    for lane in range(count):
        for i in range(wide if lane < whole else 0, inner):
            turned[i, lane] = x[first + lane, i]
    for lane in range(count, LANES):
        for i in range(inner):
            turned[i, lane] = float32(0.0)


@device
def product(out, weight, x, padding):
    """``out[r] = Σ_i weight[r, i]·x[i]``: out float32 [at least 4, 32], weight [rows, inner], x [inner, 32]."""
    rows, inner = weight.shape
    x_at = uintp(x.ctypes.data)
    if rows < 4:
        for row in range(4):
            for i in range(inner):
                padding[row * inner + i] = weight[row, i] if row < rows else float32(0.0)
        dense_rows(uintp(out.ctypes.data), uintp(padding.ctypes.data), inner, x_at, LANES, inner)
        return
    for block in range(0, rows, 4):
        # The last rows are done again with those before them where they are no whole block.
        row = min(block, rows - 4)
        dense_rows(uintp(out[row].ctypes.data), uintp(weight[row].ctypes.data), inner, x_at, LANES, inner)


@device
def add_bias(z, activated, bias, hidden):
    """Adds the bias [1, rows] to z [at least rows, 32]; its ReLU in ``activated``, zeros up to a multiple of 16."""
    rows = bias.shape[1]
    for row in range(rows):
        target, shift, result = z[row], bias[0, row], activated[row]
        for n in range(LANES):
            target[n] += shift
        if hidden:
            for n in range(LANES):
                result[n] = max(target[n], float32(0.0))
    if hidden:
        activated[rows : (rows + WIDTH - 1) // WIDTH * WIDTH] = float32(0.0)


@device
def as_rows(inputs, sizes, activated, first):
    """A layer's inputs [inner, 32] as rows of samples, with zeros up to 16 columns."""
    stride = sizes[STRIDE]
    row_bytes = uintp(4 * stride)
    target = uintp(inputs.ctypes.data) + uintp(4 * (sizes[INPUT_AT] + first * stride))
    for lane in range(0, LANES, WIDTH):
        source = uintp(activated.ctypes.data) + uintp(4 * lane)
        for i in range(0, sizes[INNER], WIDTH):
            to = target + uintp(lane) * row_bytes + uintp(4 * i)
            turn_square(to, row_bytes, source + uintp(4 * LANES * i), uintp(4 * LANES))


@device
def base_losses(probabilities, logits, goals, labels, work, first, count):
    """The sum of the losses of ``count`` samples; in ``probabilities`` [C, 32] softmax, or the residual."""
    classes, total = probabilities.shape[0], 0.0
    if goals.size > 0:
        for c in range(classes):
            for n in range(LANES):
                probabilities[c, n] = logits[c, n] - goals[c, first + n]
            for n in range(count):
                total += probabilities[c, n] * probabilities[c, n]
        return total
    highest, sums = work[0], work[1]
    base_softmax(probabilities, logits, 0, LANES, highest, sums)
    for n in range(count):
        total += np.log(sums[n]) + (highest[n] - logits[labels[first + n], n])
    return total
