"""Tiles of the field as operands of tensor cores: laid out so that no thread needs what another one draws.

The values are those of ``zo_triton/kernels/field.py``. A thread holds whole words of signs, expands them two at a
time, and stores what it has in vectors.
"""

from __future__ import annotations

import triton
import triton.language as tl

from zo_triton.kernels.field import expand_signs, four, real_tile
from zo_triton.kernels.numeric import narrow
from zo_triton.kernels.orthogonal import first_column_of, row_of, shared_philox, turned


@triton.jit
def row_blocks_like(row_block, ptr, offsets, size, HEIGHT: tl.constexpr):
    """row_block + row // HEIGHT for every element of a tile, laid out as a load at ``ptr + offsets`` would be.

    The compiler lays out what follows from a load as that load lies, and whatever follows from none element by
    element across the threads, so that :func:`spread_signs` and
    :func:`zo_triton.kernels.field.interleave` would pass each of their steps
    through shared memory. This load reads nothing: ``size`` is never negative.
    """
    row = tl.arange(0, offsets.shape[0])[:, None]
    nothing = tl.load(ptr + offsets, mask=(tl.zeros_like(offsets) + size) < 0, other=0).to(tl.int32)
    return (row_block + row // HEIGHT + nothing).to(tl.uint32)


@triton.jit
def sign_words_by_row(
    row_blocks,
    col_block,
    col_blocks,
    word,
    counter,
    ROUNDS: tl.constexpr,
    ROWS: tl.constexpr,
    WORDS: tl.constexpr,
):
    """:func:`zo_triton.kernels.field.sign_words`, every row making its four rows' call and keeping one word of it.

    Where a thread has no more than one word of the tile, the calls cost nothing more, and the exchange is saved.
    row_blocks, [ROWS, WORDS], come from :func:`row_blocks_like`.
    """
    row = tl.arange(0, ROWS)
    columns = (col_block + tl.arange(0, WORDS)).to(tl.uint32)
    width = tl.cast(col_blocks, tl.uint32)
    block = row_blocks * width + columns[None, :]
    word0, word1, word2, word3 = shared_philox(block, word, counter, ROUNDS)
    odd, late = (row % 2 == 1)[:, None], (row % 4 >= 2)[:, None]
    words = tl.where(late, tl.where(odd, word3, word2), tl.where(odd, word1, word0))
    if counter[0].dtype.primitive_bitwidth == 64:
        place = (4 * row_blocks + (row % 4).to(tl.uint32)[:, None]) * width + columns[None, :]
        words = turned(words, row_of(counter, ROUNDS), first_column_of(word) + (place << 5), counter)
    return words


@triton.jit
def _unshuffle(word):
    """Bit 2i → bit i, bit 2i + 1 → bit 16 + i."""
    swapped = (word ^ (word >> 1)) & 0x22222222
    word = word ^ swapped ^ (swapped << 1)
    swapped = (word ^ (word >> 2)) & 0x0C0C0C0C
    word = word ^ swapped ^ (swapped << 2)
    swapped = (word ^ (word >> 4)) & 0x00F000F0
    word = word ^ swapped ^ (swapped << 4)
    swapped = (word ^ (word >> 8)) & 0x0000FF00
    return word ^ swapped ^ (swapped << 8)


@triton.jit
def _pair(halves, negative, PLACE: tl.constexpr):
    """Two numbers in 16 bits, one a half, which are negative unless bits PLACE and 16 + PLACE are set."""
    return ((halves << (15 - PLACE)) & 0x80008000) ^ negative


@triton.jit
def spread_signs(words, scale, ROWS: tl.constexpr, COLS: tl.constexpr, DTYPE: tl.constexpr):
    """scale·:func:`zo_triton.kernels.field.expand_signs` for words of which a thread holds few: two signs a shift.

    In 16 bits the scale, a number that DTYPE holds, costs nothing: a sign is put on it rather than on a one.
    """
    if DTYPE.primitive_bitwidth == 16:
        halves = _unshuffle(words)
        bits = narrow(tl.cast(scale, tl.float32), DTYPE).to(tl.uint16, bitcast=True).to(tl.uint32)
        n = (bits | (bits << 16)) ^ 0x80008000
        pairs = four(
            four(_pair(halves, n, 0), _pair(halves, n, 4), _pair(halves, n, 8), _pair(halves, n, 12)),
            four(_pair(halves, n, 1), _pair(halves, n, 5), _pair(halves, n, 9), _pair(halves, n, 13)),
            four(_pair(halves, n, 2), _pair(halves, n, 6), _pair(halves, n, 10), _pair(halves, n, 14)),
            four(_pair(halves, n, 3), _pair(halves, n, 7), _pair(halves, n, 11), _pair(halves, n, 15)),
        )
        numbers = tl.join(pairs.to(tl.uint16), (pairs >> 16).to(tl.uint16))
        return tl.reshape(numbers, (ROWS, COLS)).to(DTYPE, bitcast=True)
    else:
        return expand_signs(words, ROWS, COLS, DTYPE) * scale


@triton.jit
def drawn_tile(
        row_block, col, cols, ptr, size, word, counter, DISTRIBUTION: tl.constexpr, ROUNDS: tl.constexpr,
        ROWS: tl.constexpr, COLS: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """[ROWS, COLS] of the field's matrix of ``cols`` columns, from row 4·row_block; signs packed, [ROWS, COLS/32].

    Nothing is read at ``ptr``; ``size`` is a number that is never negative, though the compiler can't know it.
    """
    if DISTRIBUTION == "rademacher":
        word_offsets = 32 * tl.arange(0, ROWS)[:, None] + tl.arange(0, COLS // 32)[None, :]
        row_blocks = row_blocks_like(row_block, ptr, word_offsets, size, 4)
        return sign_words_by_row(
            row_blocks, col // 32, (cols + 31) // 32, word, counter, ROUNDS, ROWS, COLS // 32
        )
    else:
        return real_tile_of_u(
            row_block, col, cols, ptr, size, word, counter, DISTRIBUTION, ROUNDS, 1, ROWS, COLS, DTYPE
        )


@triton.jit
def real_tile_of_u(
        row_block, col, cols, ptr, size, word, counter, DISTRIBUTION: tl.constexpr, ROUNDS: tl.constexpr,
        APART: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """:func:`drawn_tile` of real values and of columns that lie APART, from ``col`` on."""
    offsets = tl.zeros((ROWS // 4, 1), tl.int32) + tl.arange(0, COLS)[None, :]
    row_blocks = row_blocks_like(row_block, ptr, offsets, size, 1)
    return real_tile(row_blocks, col, cols, word, counter, DISTRIBUTION, ROUNDS, ROWS, COLS, DTYPE, APART)
