"""How a small MLP lies in memory while it is evaluated, and a group of directions' signs drawn to that plan."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numba import float32, uint32, uintp
from numba.extending import register_jitable

from zo_triton.cpu.activating import kind_of
from zo_triton.cpu.compiling import device
from zo_triton.cpu.field import SHARED, philox_words
from zo_triton.cpu.orthogonal import first_column, inverted, pattern_of, row_of
from zo_triton.cpu.vectors import LANES, add_signs
from zo_triton.directions import tensor_word

GROUP = 8
"""Directions that share the base's tables."""

INNER, ROWS, PADDED_ROWS, WIDTH_IN_WORDS, BASE_AT, ROW_AT, PADDED_ROW_AT, WORD_AT, BIAS_WORD_AT = range(9)
"""Columns of the layout: a layer's sizes, and where its parts begin among those of all layers.

One more row says where they end.
"""

BLOCK_NUMBER, TENSOR_WORD, DIRECTION, PLACE, ROW_STEP = range(5)
"""Rows of the draws: for each block of the generator for a group its counter, and where its four words go."""


@lru_cache(maxsize=64)
def plan(
    shapes: tuple[tuple[int, int], ...],
    weight_ids: tuple[int, ...],
    bias_ids: tuple[int, ...],
    activations: tuple[str, ...],
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """What stays the same from step to step.

    Returns:
        layout int64 [depth + 1, 9], counter words [2, depth], kinds [depth], draws uint32 [5, blocks]: a group's
        directions one after the other.
    """
    layout = np.zeros((len(shapes) + 1, 9), np.int64)
    for layer, (rows, inner) in enumerate(shapes):
        padded, width = -(-rows // 4) * 4, -(-inner // LANES)
        layout[layer, :4] = inner, rows, padded, width
        layout[layer + 1, 4:] = layout[layer, 4:] + (inner, rows, padded, padded * width, -(-rows // LANES))
    words = np.array(
        [[tensor_word(i) if i >= 0 else -1 for i in ids] for ids in (weight_ids, bias_ids)], np.int64
    )
    kinds = np.array([kind_of(activation) for activation in activations], np.int64)
    draws = []
    for k in range(GROUP):
        for sizes, (weight_word, bias_word) in zip(layout[:-1].tolist(), words.T.tolist(), strict=True):
            padded, width, bias_width = sizes[PADDED_ROWS], sizes[WIDTH_IN_WORDS], -(-sizes[ROWS] // LANES)
            at = GROUP * sizes[WORD_AT] + k * padded * width
            bias_at = GROUP * (int(layout[-1, WORD_AT]) + 4 * sizes[BIAS_WORD_AT]) + 4 * k * bias_width
            for word, place, rows, step in (
                (weight_word, at, padded, width),
                (bias_word, bias_at, 4, bias_width),
            ):
                if word >= 0:
                    draws += [
                        (block, word, k, place + block // step * 4 * step + block % step, step)
                        for block in range(rows // 4 * step)
                    ]
    return layout, words, kinds, np.array(draws, np.uint32).reshape(-1, 5).T.copy()


@register_jitable
def largest(layout, column):
    """Over all layers; a loop, since Numba's own reductions take a second to compile."""
    found = 0
    for layer in range(layout.shape[0]):
        found = max(found, layout[layer, column])
    return found


@register_jitable
def added_up(layout, column):
    """The same for the sum."""
    found = 0
    for layer in range(layout.shape[0]):
        found += layout[layer, column]
    return found


@device
def draw_group(signs, bias, drawn, layout, ids, draws, first_index, count, key, zeros):
    """The packed signs of ``count`` directions, layer by layer: [depth][GROUP][padded rows][words].

    And bias [GROUP, padded rows of all layers and 32 more], ±1 where a bias is trained, else 0. drawn: scratch,
    uint32 like the draws. zeros: float32 [32].
    """
    if key.ndim == 2:
        _draw_orthogonal(signs, drawn, draws, first_index, count, key[0])
    else:
        blocks, indices = draws.shape[1] // GROUP * count, drawn[4]
        for i in range(blocks):
            indices[i] = uint32(first_index) + draws[DIRECTION, i]
        philox_words(drawn, blocks, draws[BLOCK_NUMBER], indices, draws[TENSOR_WORD], key)
        for lane in range(4):
            for i in range(blocks):
                signs[draws[PLACE, i] + uint32(lane) * draws[ROW_STEP, i]] = drawn[lane, i]
    bias_words = signs[GROUP * layout[ids.shape[1], WORD_AT] :]
    for layer in range(ids.shape[1]):
        row, width = layout[layer, PADDED_ROW_AT], (layout[layer, ROWS] + LANES - 1) // LANES
        if ids[1, layer] < 0:
            bias[:, row : row + layout[layer, PADDED_ROWS]] = float32(0.0)
            continue
        word = 4 * GROUP * layout[layer, BIAS_WORD_AT]
        for k in range(count):
            # Whole words: the next layer's signs come over what is beyond a layer's rows.
            to = uintp(bias.ctypes.data) + uintp(4 * (k * bias.shape[1] + row))
            for column in range(width):
                add_signs(to, zeros.ctypes.data, bias_words[word + column], float32(1.0))
                to += uintp(4 * LANES)
            word += 4 * width


@device
def _draw_orthogonal(signs, drawn, draws, first_index, count, key):
    """:func:`draw_group`'s packed signs of orthogonal directions, for which the generator runs once."""
    blocks, scratch = draws.shape[1] // GROUP, drawn[4]
    for i in range(blocks):
        scratch[i] = SHARED
    philox_words(drawn, blocks, draws[BLOCK_NUMBER], scratch, draws[TENSOR_WORD], key)
    columns = scratch
    for i in range(blocks):
        block, width = draws[BLOCK_NUMBER, i], draws[ROW_STEP, i]
        word = uint32(4 * (block // width) * width + block % width)
        columns[i] = uint32(first_column(draws[TENSOR_WORD, i], key) + uint32(32) * word)
    for k in range(count):
        row = row_of(first_index + k, key)
        pattern, places = pattern_of(row), draws[PLACE, k * blocks :]
        for lane in range(4):
            for i in range(blocks):
                down = uint32(lane) * draws[ROW_STEP, i]
                turned = pattern ^ inverted(row, uint32(columns[i] + uint32(32) * down), key)
                signs[places[i] + down] = drawn[lane, i] ^ turned
