"""Attention's differences, float32 or bfloat16, in one call with float32 products.

Rows serve as left factors as they are; Kᵀ and V are laid out in panels, see ``panel_products``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numba import float32, uintp
from torch import Tensor

from zo_triton.cpu.addresses import keep, matrix_at, matrix_like
from zo_triton.cpu.attention_pieces import (
    KEY,
    MASK,
    QUERY,
    RESULT,
    VALUE,
    attention_in_pieces,
    fetch,
    piece_of,
)
from zo_triton.cpu.compiling import device, routine, wide_vectors
from zo_triton.cpu.panel_products import ROWS, add_products
from zo_triton.cpu.scalars import exp, load, store
from zo_triton.cpu.sharing import shared
from zo_triton.cpu.signs import line_of_floats
from zo_triton.cpu.softmax import move_rows
from zo_triton.cpu.turning import turn_rows
from zo_triton.cpu.vectors import LANES, WIDTH

_WIDE, _NARROW = np.empty(0, np.float32), np.empty(0, np.uint16)

_move_rows = move_rows.body


def attention_in_rows(
    out: Tensor, still: Sequence[Tensor], moving: Sequence[Tensor | None], scale: float, is_causal: bool
) -> None:
    """Same contract as :func:`attention_in_pieces`; what moves has the dtype of ``out``, float32 or bfloat16.

    A mask, [1, *batch, L, S] float32, may follow the value in ``still``; it is added to the scores.
    """
    like = _NARROW if out.itemsize == 2 else _WIDE
    attention_in_pieces(_kernel, out, still, moving, scale, is_causal, like)


@shared
def _kernel(base_places, places, pitches, sizes, scale, is_causal, like, start, stop):
    """Items start … stop - 1, see :func:`attention_in_pieces`.

    like: of the dtype that differences have, bfloat16 as uint16.
    """
    queries, keys, inner, columns, pieces, _ = sizes
    evaluations, factor, one = places.shape[1], float32(scale), float32(1.0)
    height, panels = _up((queries + pieces - 1) // pieces, ROWS), _up(columns, LANES) // LANES
    masked, apart = base_places.shape[0] > MASK, pitches[base_places.shape[0] :]
    space = line_of_floats(_floats(height, _up(keys, LANES), inner, LANES * panels))
    for item in range(start, stop):
        n, first, rows, begin, end, seen, hidden = piece_of(item, sizes, evaluations, is_causal)
        key_panels = _up(seen, LANES) // LANES
        place = uintp(space.ctypes.data)
        scores, place = _take(place, height, LANES * key_panels)
        shares, place = _take(place, height, LANES * key_panels)
        change, place = _take(place, height, LANES * key_panels)
        query, place = _take(place, height, inner)
        dq, place = _take(place, height, inner)
        moved_query, place = _take(place, height, inner)
        key, place = _take(place, seen, inner)
        key_columns, place = _take_panels(place, key_panels, inner)
        dk_columns, place = _take_panels(place, key_panels, inner)
        value, place = _take_panels(place, panels, seen)
        dv, place = _take_panels(place, panels, seen)
        moved_value, place = _take_panels(place, panels, seen)
        result, place = _take(place, height, LANES * panels)
        base = base_places[:, n]
        _read(query, _matrix(base, QUERY, queries, pitches, space), first, rows)
        _read(key, _matrix(base, KEY, keys, pitches, space), 0, seen)
        _turn(key_columns, key)
        fetch(base[VALUE], 0, seen, pitches[VALUE], columns, 4)
        _fetch_changes(places[:, begin, n], apart, first, rows, seen, inner, columns, like.itemsize)
        no_scores, base_scores = (False, query, key_columns), (True, query, key_columns)
        add_products(scores, rows, key_panels, hidden, True, one, base_scores, no_scores)
        _scale(scores, rows, seen, factor)
        if masked:
            _hide(scores, _matrix(base, MASK, queries, pitches, space), first, rows, seen)
        _share_out(shares, scores, rows, seen, hidden, masked)
        _read_panels(value, _matrix(base, VALUE, keys, pitches, space), columns)
        turns, shifts, grows = places[QUERY, 0, n] != 0, places[KEY, 0, n] != 0, places[VALUE, 0, n] != 0
        for p in range(begin, end):
            here = places[:, p, n]
            if turns:
                _read(dq, _matrix(here, QUERY, queries, apart, like), first, rows)
                _add(moved_query, query, dq)
            if shifts:
                _read(key, _matrix(here, KEY, keys, apart, like), 0, seen)
                _turn(dk_columns, key)
            if p + 1 < end:
                _fetch_changes(places[:, p + 1, n], apart, first, rows, seen, inner, columns, like.itemsize)
            if turns or shifts:
                shifted = shifts, moved_query if turns else query, dk_columns
                add_products(
                    change, rows, key_panels, hidden, True, factor, (turns, dq, key_columns), shifted
                )
                _move_rows(change, change, shares, scores, hidden, height, False, 0, rows)
            if grows:
                _read_panels(dv, _matrix(here, VALUE, keys, apart, like), columns)
                _add(moved_value, value, dv)
            spread = turns or shifts, change, moved_value if grows else value
            add_products(result, rows, panels, hidden, False, one, spread, (grows, shares, dv))
            _write(_matrix(here, RESULT, queries, apart, like), first, result, rows, columns)
    keep(space)


@device
def _up(count, step):
    """The next multiple of ``step``."""
    return (count + step - 1) // step * step


@device
def _floats(height, keys, inner, columns):
    """How many float32 the matrices of a piece take, each from the beginning of a cache line on."""
    return height * (3 * keys + 3 * inner + columns) + keys * (3 * inner + 3 * columns) + 13 * WIDTH


@device
def _matrix(places, which, rows, pitches, like):
    """Query, key, value or result of those at ``places``, of the dtype that ``like`` has."""
    return matrix_like(uintp(places[which]), rows, pitches[which], like)


@device
def _take(place, rows, columns):
    """A matrix that lies at an address, and the next address."""
    return matrix_at(place, rows, columns), place + uintp(4 * _up(rows * columns, WIDTH))


@device
def _take_panels(place, panels, rows):
    """The same for panels [panels, rows, 32]."""
    matrix, following = _take(place, panels * rows, LANES)
    return matrix.reshape(panels, rows, LANES), following


@routine
def _fetch_changes(places, pitches, first, rows, seen, inner, columns, size):
    """Has an evaluation's matrices come to the cache while something else is computed."""
    fetch(places[QUERY], first, rows, pitches[QUERY], inner, size)
    fetch(places[KEY], 0, seen, pitches[KEY], inner, size)
    fetch(places[VALUE], 0, seen, pitches[VALUE], columns, size)


@routine
def _read(out, source, first, rows):
    """``out[i] = source[first + i]`` for so many rows and the columns of ``out``."""
    wide_vectors()
    for i in range(rows):
        target, line = out[i], source[first + i]
        for j in range(target.size):
            target[j] = load(line[j])


@routine
def _read_panels(panels, source, columns):
    """Panels of all columns of ``source``; what is beyond them stays as it was, and makes only sums beyond."""
    wide_vectors()
    for panel in range(panels.shape[0]):
        first = LANES * panel
        for i in range(panels.shape[1]):
            target, line = panels[panel, i], source[i, first : min(first + LANES, columns)]
            for j in range(line.size):
                target[j] = load(line[j])


@routine
def _turn(panels, rows):
    """Rows become columns, with zeros beyond."""
    for panel in range(panels.shape[0]):
        first, target = LANES * panel, panels[panel]
        lanes = min(LANES, rows.shape[0] - first)
        turn_rows(target, rows, first, lanes)
        if lanes < LANES:
            for i in range(target.shape[0]):
                target[i, lanes:] = float32(0.0)


@routine
def _scale(scores, rows, seen, factor):
    """``scores *= factor`` for so many rows and columns."""
    wide_vectors()
    for row in range(rows):
        line = scores[row]
        for j in range(seen):
            line[j] *= factor


@routine
def _hide(scores, mask, first, rows, seen):
    """``scores += mask``, whose rows begin at ``first``; what it hides is hidden, whatever its score was."""
    wide_vectors()
    for row in range(rows):
        line, added = scores[row], mask[first + row]
        for j in range(seen):
            line[j] = added[j] if added[j] == -math.inf else line[j] + added[j]


@routine
def _share_out(shares, scores, rows, seen, hidden, masked):
    """Shares become the scores' softmax; scores −∞ where a key is hidden, and from ``seen`` on.

    masked: whether there may be a row that sees nothing, and has no shares.
    """
    wide_vectors()
    for row in range(rows):
        line, target = scores[row], shares[row]
        count = seen if hidden < 0 else min(seen, hidden + row + 1)
        highest, total = float32(-math.inf), 0.0
        for j in range(count):
            highest = max(highest, line[j])
        if masked and highest == -math.inf:
            count = 0
        for j in range(count):
            target[j] = exp(line[j] - highest)
        for j in range(count):
            total += target[j]
        inverse = 1.0 / total
        for j in range(count):
            target[j] = target[j] * inverse
        line[count:], target[count:] = float32(-math.inf), float32(0.0)


@routine
def _add(out, first, second):
    """``out = first + second``."""
    wide_vectors()
    target, a, b = out.reshape(-1), first.reshape(-1), second.reshape(-1)
    for i in range(target.size):
        target[i] = a[i] + b[i]


@routine
def _write(out, first, source, rows, columns):
    """``out[first + i] = source[i]`` for so many rows and columns."""
    wide_vectors()
    for i in range(rows):
        target, line = out[first + i], source[i]
        for j in range(columns):
            store(target, j, line[j])
