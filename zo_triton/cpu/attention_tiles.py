"""Attention's differences in squares of products, for float32 and without a mask.

One call goes through all matrices. A piece of the work is one matrix of the base with some of its queries: scores
and shares are made once, and then, evaluation after evaluation, the scores' differences, the shares' and the
result's. Squares that a causal mask hides are not computed, and nothing but the result leaves the cache.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numba import float32, uintp
from torch import Tensor

from zo_triton.cpu.addresses import fetch_line, matrix_at
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
from zo_triton.cpu.threads import together
from zo_triton.cpu.tiles import DEPTH, new_left, new_right, pack_columns, pack_rows, pack_sums
from zo_triton.cpu.vectors import LANES

QUERIES = 128
"""Of a matrix at a time: their scores and differences for 512 keys take 768 KiB."""

FEW_ITEMS = 16
"""With fewer pieces the evaluations are shared out as well."""

QUERY, KEY, VALUE, RESULT = range(4)

_move_rows = move_rows.body


def attention_in_tiles(
    out: Tensor,
    still: Sequence[Tensor],
    moving: Sequence[Tensor | None],
    scale: float,
    is_causal: bool,
    parts: int,
) -> None:
    """Writes the result's difference.

    Args:
        out: [P, *batch, L, Ev] float32.
        still: Query, key and value, [1, *batch, rows, columns] float32.
        moving: Their differences, [P, *batch, rows, columns] float32, or None.
        scale: Factor on QKᵀ.
        is_causal: Hides from query i the keys after i.
        parts: In which factors come, one if they may be rounded.
    """
    evaluations, (queries, columns) = out.shape[0], out.shape[-2:]
    keys, inner = still[KEY].shape[-2:]
    target = _in_rows(out)
    lying = [None if each is None else _in_rows(each) for each in (*still, *moving, target)]
    bases, changes = lying[: len(still)], lying[len(still) :]
    matrices = out[0].numel() // (queries * columns)
    base_places = np.stack([_places(each)[0] for each in bases if each is not None])
    places = np.zeros((RESULT + 1, evaluations, matrices), np.int64)
    for each, row in zip(changes, places, strict=True):
        if each is not None:
            row[:] = _places(each)
    pitches = np.array(
        [0 if each is None else max(each.stride(-2), each.shape[-1]) for each in lying], np.int64
    )
    pieces = -(-queries // QUERIES)
    groups = min(evaluations, -(-FEW_ITEMS // (matrices * pieces)))
    sizes = np.array([queries, keys, inner, columns, pieces, groups, parts], np.int64)
    together(_kernel, (base_places, places, pitches, sizes, scale, is_causal), matrices * pieces * groups)
    if target is not out:
        out.copy_(target)


def _in_rows(tensor: Tensor) -> Tensor:
    """The tensor, or a copy, whose matrices' rows lie in one piece each, and on no other."""
    tensor = tensor.resolve_neg()  # an address knows nothing of a sign that is still to be turned
    rows, columns = tensor.shape[-2:]
    between, within = tensor.stride()[-2:]
    apart = (within == 1 or columns == 1) and (between >= columns or rows == 1)
    return tensor if apart else tensor.contiguous()


def _places(tensor: Tensor) -> np.ndarray:
    """Addresses of the matrices of [P, *batch, rows, columns], int64 [P, all of the batch]."""
    offsets = np.zeros((), np.int64)
    for size, stride in zip(tensor.shape[:-2], tensor.stride(), strict=False):
        offsets = offsets[..., None] + stride * np.arange(size)
    return tensor.data_ptr() + tensor.itemsize * offsets.reshape(tensor.shape[0], -1)


@shared
def _kernel(base_places, places, pitches, sizes, scale, is_causal, start, stop):
    """Items start … stop - 1, each a matrix, a piece of its queries and a group of evaluations.

    base_places: int64 [3, matrices], addresses of query, key and value. places: [4, P, matrices], of their
    differences, 0 where there are none, and of the result. pitches: [7], how far rows are apart in each.
    """
    queries, keys, inner, columns, pieces, groups, parts = sizes
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
        group, piece, n = item % groups, item // groups % pieces, item // groups // pieces
        first, end = queries * piece // pieces, queries * (piece + 1) // pieces
        rows, seen, hidden = end - first, min(keys, end) if is_causal else keys, first if is_causal else -1
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
        last = (group + 1) * evaluations // groups - 1
        for p in range(group * evaluations // groups, last + 1):
            following = min(p + 1, last)
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
                _fetch(places[QUERY, following, n], first, rows, pitches[3 + QUERY], inner)
                _multiply(change, hidden, turns, lefts[0], rights[0], shifts, lefts[1], rights[1])
                _fetch(places[KEY, following, n], 0, seen, pitches[3 + KEY], inner)
                _move_rows(change, change, shares, scores, hidden, rows, False, 0, rows)
                pack_rows(change_tiles, change, 0, rows, seen, float32(1.0))
            if grows:
                _add(moved, value, dv, seen)
                pack_columns(value_tiles, moved, False, seen, columns)
                pack_columns(growth_tiles, dv, False, seen, columns)
            _fetch(places[VALUE, following, n], 0, seen, pitches[3 + VALUE], columns)
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


@routine
def _fetch(address, first, rows, pitch, columns):
    """Has rows of the next evaluation's matrix come to the cache: short and far apart, they are not foreseen.

    Nothing if there is no matrix, at address 0.
    """
    at = uintp(address + 4 * first * pitch)
    for _ in range(rows if address else 0):
        for line in range((columns + 15) // 16):
            fetch_line(at + uintp(64 * line))
        at += uintp(4 * pitch)


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
