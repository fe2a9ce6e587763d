"""Multiplying by random signs, four columns at a time, without writing a single sign out.

For U with entries ±1, every group of four columns can only ever contribute one of 16 signed sums of its four
inputs. They are formed once for 32 samples; each row of U then adds the entry that its four packed bits name
(the "method of the four Russians": Arlazarov, Dinic, Kronrod, Faradzhev, 1970). One vector load and one add
do the work of four multiply-adds, in exact float32. With tables for 16 samples, half as large, taking the bits
apart would take longer than the additions.
"""

from __future__ import annotations

import numpy as np
from numba import intp, uint32, uintp

from zo_triton.cpu.compiling import device, routine
from zo_triton.cpu.field import sign_words
from zo_triton.cpu.turning import turn_signs
from zo_triton.cpu.vectors import (
    LANES,
    add_one_word,
    add_two_words,
    set_one_word,
    set_two_words,
    signed_coefficient_sums,
    write_signed_sums,
)

LINE = 64
"""Bytes of a cache line."""

TABLES = 16 * 16 * LANES
"""Float32 values in the tables, one table for each group of four columns in two 32-bit words: 32 KiB, all of a
small level-1 cache, which is read in order but for them."""


DRAWN_ROWS = 64
"""Rows of packed signs that are drawn at a time, a multiple of 4."""


@device
def line_of_floats(count):
    """An uninitialised float32 array that starts at a cache line: a vector that straddles two costs two loads."""
    held = np.empty(count + LINE // 4, np.float32)
    start = to_line(held)
    return held[start : start + count]


@device
def to_line(space):
    """Float32 values of an array that lie before its first cache line."""
    return intp((uintp(LINE) - uintp(space.ctypes.data) % uintp(LINE)) % uintp(LINE)) // 4


@device
def part(space, at, count):
    """``space[at : at + count]``, and where the next part begins: at a cache line if this one does; float32."""
    return space[at : at + count], at + (count + LINE // 4 - 1) // (LINE // 4) * (LINE // 4)


def floats_for(parts: tuple[int, ...]) -> int:
    """Float32 values that hold such parts, wherever the array begins."""
    return int(sum(parts)) + (len(parts) + 1) * (LINE // 4)


@device
def lines(space, at, count):
    """The next ``count`` runs of 32 values, float32 [count, 32], and where the part after them begins."""
    flat, after = part(space, at, LANES * count)
    return flat.reshape(count, LANES), after


@routine
def draw_signs(words, transposed, inner, word, index, key):
    """Packed signs of U [rows, inner], as :func:`sign_product` reads them, of the directions from ``index`` on.

    words: uint32 [count, at least rows, words a row], a multiple of four rows. If ``transposed``, the field's
    tensor is Uᵀ, whose rows are packed along the rows of U.
    """
    count, rows, _ = words.shape
    if not transposed:
        # In pieces, since drawing takes as much scratch again as it draws.
        for row in range(0, rows, DRAWN_ROWS):
            sign_words(words[:, row : min(row + DRAWN_ROWS, rows)], row // 4, word, index, key)
        return
    drawn = np.empty((1, 32, (rows + 31) // 32), np.uint32)
    for k in range(count):
        for strip in range((inner + 31) // 32):
            sign_words(drawn, 8 * strip, word, index + k, key)
            turn_signs(words[k], strip, drawn[0])


@routine
def draw_layer(words, bias, transposed, inner, weight_word, bias_word, index, key):
    """Signs of one direction: words uint32 [1, at least out, words a row], bias float32 [out]; -1 for neither."""
    if weight_word >= 0:
        draw_signs(words, transposed, inner, weight_word, index, key)
    if bias_word >= 0:
        drawn = np.empty((1, 4, (bias.size + 31) // 32), np.uint32)
        sign_words(drawn, 0, bias_word, index, key)
        for row in range(bias.size):
            bit = (drawn[0, 0, row // 32] >> uint32(row % 32)) & uint32(1)
            bias[row] = np.float32(1.0) if bit else np.float32(-1.0)


@device
def sums_of_signs(sums, words, column, coefficients):
    """``sums[r, j] = Σ_k ±coefficients[k]`` for four rows and the 32 columns of word ``column``.

    sums: float32 [4, 32]. words: uint32 [K, 4, words a row], what ``sign_words`` writes. coefficients: float32 [K].
    """
    width = words.shape[2]
    signed_coefficient_sums(
        sums.ctypes.data, words[0, 0, column:].ctypes.data, width, 4 * width, coefficients.ctypes.data,
        coefficients.size,
    )  # fmt: skip


@routine
def sign_product(totals, first_row, words, x, tables, lanes):
    """``totals = U @ x`` for the first ``lanes`` samples, a multiple of 32.

    totals: float32 [block / 32, at least rows, 32], written from ``first_row`` on; 32 samples of all rows lie
    together, or the cache's sets would not hold them. words: uint32 [rows, width], the packed signs of U.
    x: float32 [32·width, block], zero in rows beyond the matrix's columns. tables: float32 [:data:`TABLES`].
    """
    rows, width = words.shape
    x_bytes, total_bytes, word_bytes = uintp(4 * x.shape[1]), uintp(4 * LANES), uintp(4 * width)
    tables_at, table_bytes = uintp(tables.ctypes.data), uintp(4 * LANES * 16)
    for lane in range(0, lanes, LANES):
        x_at = uintp(x.ctypes.data) + uintp(4 * lane)
        totals_at = uintp(totals[lane // LANES, first_row:].ctypes.data)
        for column in range(0, width, 2):
            pair = width - column > 1
            for group in range(16 if pair else 8):
                four_rows = x_at + uintp(32 * column + 4 * group) * x_bytes
                write_signed_sums(tables_at + uintp(group) * table_bytes, four_rows, x_bytes)
            target, source = totals_at, uintp(words[0, column:].ctypes.data)
            for _ in range(rows):
                if pair and column == 0:
                    set_two_words(target, tables_at, source)
                elif pair:
                    add_two_words(target, tables_at, source)
                elif column == 0:
                    set_one_word(target, tables_at, source)
                else:
                    add_one_word(target, tables_at, source)
                target, source = target + total_bytes, source + word_bytes
