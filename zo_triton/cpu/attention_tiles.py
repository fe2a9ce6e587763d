"""Attention's differences in squares of products, for float32 and without a mask.

Factors may be rounded to bfloat16, or come in three parts of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numba import float32, uintp
from torch import Tensor

from zo_triton.cpu.addresses import matrix_at
from zo_triton.cpu.attention_pieces import KEY, QUERY, RESULT, VALUE, attention_in_pieces, fetch, piece_of
from zo_triton.cpu.compiling import device, routine
from zo_triton.cpu.scalars import exp
from zo_triton.cpu.sharing import shared
from zo_triton.cpu.softmax import move_rows
from zo_triton.cpu.squares import (
    add_first_parts,
    add_small_parts,
    begin_square,
    begin_tiles,
    end_tiles,
    store_square,
)
from zo_triton.cpu.tiles import DEPTH, new_left, new_right, pack_columns, pack_rows, pack_sums
from zo_triton.cpu.vectors import LANES

_move_rows = move_rows.body


def attention_in_tiles(
    out: Tensor,
    still: Sequence[Tensor],
    moving: Sequence[Tensor | None],
    scale: float,
    is_causal: bool,
    parts: int,
) -> None:
    """Same contract as :func:`attention_in_pieces`; ``out`` is float32, and so is what moves.

    ``parts``: In which factors come, one if they may be rounded.
    """
    attention_in_pieces(_kernel, out, still, moving, scale, is_causal, parts)


@shared
def _kernel(base_places, places, pitches, sizes, scale, is_causal, parts, start, stop):
    """Items start … stop - 1, see :func:`attention_in_pieces`."""
    queries, keys, inner, columns, pieces, _ = sizes
    evaluations, factor = places.shape[1], float32(scale)
    height = (queries + pieces - 1) // pieces
    blocks, column_blocks = _blocks(height), _blocks(columns)
    lefts = new_left(height, inner, parts), new_left(height, inner, parts)
    rights = new_right(inner, keys, parts), new_right(inner, keys, parts)
    left_space, other_left_space = new_left(height, keys, parts), new_left(height, keys, parts)
    right_space, other_right_space = new_right(keys, columns, parts), new_right(keys, columns, parts)
    score_space, share_space = np.empty(height * keys, np.float32), np.empty(height * keys, np.float32)
    change_space = np.empty(height * keys, np.float32)
    moved, result = np.empty((keys, columns), np.float32), np.empty((height, columns), np.float32)
    begin_tiles()
    for item in range(start, stop):
        n, first, rows, begin, end, seen, hidden = piece_of(item, sizes, evaluations, is_causal)
        width = _blocks(seen)
        change_tiles, share_tiles = _lefts(left_space, blocks, width), _lefts(other_left_space, blocks, width)
        value_tiles, growth_tiles = (
            _rights(right_space, column_blocks, width),
            _rights(other_right_space, column_blocks, width),
        )
        query = matrix_at(uintp(base_places[QUERY, n]), queries, pitches[QUERY])
        key = matrix_at(uintp(base_places[KEY, n]), keys, pitches[KEY])
        value = matrix_at(uintp(base_places[VALUE, n]), keys, pitches[VALUE])
        scores = score_space[: rows * seen].reshape(rows, seen)
        shares = share_space[: rows * seen].reshape(rows, seen)
        change = change_space[: rows * seen].reshape(rows, seen)
        pack_rows(lefts[0], query, first, rows, inner, float32(1.0))
        pack_columns(rights[0][: 2 * width], key, True, inner, seen)
        _multiply(scores, hidden, True, lefts[0], rights[0], False, lefts[0], rights[0])
        _share_out(shares, scores, factor, hidden)
        pack_rows(share_tiles, shares, 0, rows, seen, float32(1.0))
        pack_columns(value_tiles, value, False, seen, columns)
        turns, shifts, grows = places[QUERY, 0, n] != 0, places[KEY, 0, n] != 0, places[VALUE, 0, n] != 0
        for p in range(begin, end):
            following = min(p + 1, end - 1)
            dq = matrix_at(uintp(places[QUERY, p, n]), queries, pitches[3 + QUERY])
            dk = matrix_at(uintp(places[KEY, p, n]), keys, pitches[3 + KEY])
            dv = matrix_at(uintp(places[VALUE, p, n]), keys, pitches[3 + VALUE])
            if turns:
                pack_rows(lefts[0], dq, first, rows, inner, factor)
            if shifts:
                if turns:
                    pack_sums(lefts[1], query, first, dq, first, rows, inner, factor)
                else:
                    pack_rows(lefts[1], query, first, rows, inner, factor)
                pack_columns(rights[1][: 2 * width], dk, True, inner, seen)
            if turns or shifts:
                fetch(places[QUERY, following, n], first, rows, pitches[3 + QUERY], inner, 4)
                _multiply(change, hidden, turns, lefts[0], rights[0], shifts, lefts[1], rights[1])
                fetch(places[KEY, following, n], 0, seen, pitches[3 + KEY], inner, 4)
                _move_rows(change, change, shares, scores, hidden, rows, False, 0, rows)
                pack_rows(change_tiles, change, 0, rows, seen, float32(1.0))
            if grows:
                _add(moved, value, dv, seen)
                pack_columns(value_tiles, moved, False, seen, columns)
                pack_columns(growth_tiles, dv, False, seen, columns)
            fetch(places[VALUE, following, n], 0, seen, pitches[3 + VALUE], columns, 4)
            part = result[:rows]
            _multiply(part, -1, turns or shifts, change_tiles, value_tiles, grows, share_tiles, growth_tiles)
            target = matrix_at(uintp(places[RESULT, p, n]), queries, pitches[3 + RESULT])
            for i in range(rows):
                source, line = part[i], target[first + i]
                for j in range(columns):
                    line[j] = source[j]
    end_tiles()


@device
def _lefts(space, blocks, width):
    """Memory for a left factor of 32·blocks rows and 32·width columns, at the front of what there is."""
    shape = 2 * blocks, width, space.shape[2], 16, DEPTH
    return space.reshape(-1)[: shape[0] * width * shape[2] * 16 * DEPTH].reshape(shape)


@device
def _rights(space, blocks, width):
    """The same for a right factor of 32·width rows and 32·blocks columns."""
    shape = 2 * blocks, width, space.shape[2], 16, 16
    return space.reshape(-1)[: shape[0] * width * shape[2] * 256].reshape(shape)


@device
def _blocks(count):
    return (count + LANES - 1) // LANES


@routine
def _multiply(out, hidden, has_first, left, right, has_second, other_left, other_right):
    """``out = left @ right + other_left @ other_right``, of which one may be left out; all that is not hidden.

    hidden: −1, or how many keys the first row sees before its own; each row sees one more than the row above.
    """
    rows, columns = out.shape
    zeros, sums = np.zeros(LANES, np.float32), np.empty((LANES, LANES), np.float32)
    for block in range(_blocks(rows)):
        width = columns if hidden < 0 else min(columns, hidden + LANES * (block + 1))
        for column_block in range(_blocks(width)):
            begin_square(sums, zeros, 0)
            if has_first:
                add_small_parts(sums, left, block, right, column_block)
            if has_second:
                add_small_parts(sums, other_left, block, other_right, column_block)
            if has_first:
                add_first_parts(sums, left, block, right, column_block)
            if has_second:
                add_first_parts(sums, other_left, block, other_right, column_block)
            store_square(out, LANES * block, column_block, sums)


@routine
def _share_out(shares, scores, factor, hidden):
    """Scores become factor·scores, −∞ where a key is hidden, and shares their softmax."""
    rows, columns = scores.shape
    for row in range(rows):
        line, target = scores[row], shares[row]
        count = columns if hidden < 0 else min(columns, hidden + row + 1)
        highest, total = float32(-math.inf), float32(0.0)
        for j in range(count):
            line[j] *= factor
            highest = max(highest, line[j])
        for j in range(count):
            target[j] = exp(line[j] - highest)
        for j in range(count):
            total += target[j]
        for j in range(count):
            target[j] /= total
        for j in range(count, columns):
            line[j], target[j] = float32(-math.inf), float32(0.0)


@routine
def _add(out, first, second, rows):
    """``out = first + second`` for so many rows and the columns of ``out``."""
    for i in range(rows):
        target, a, b = out[i], first[i], second[i]
        for j in range(out.shape[1]):
            target[j] = a[j] + b[j]
