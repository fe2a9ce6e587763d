"""Orthogonal signs: the row of the matrix that a direction takes, and what it makes of the sign that all share.

No kernel has an argument for them: where directions are orthogonal, the first direction and the words of tensors
are 64-bit numbers, and what the matrix needs stands in the upper half (:mod:`zo_triton.hadamard` has the formulas).
A direction is log₂ M + 1 and its index; a tensor's word is the column index of its first element, counted in words
of 32 signs, and the word itself. Bit 62 is set in every such word, so that its type never depends on its value.
"""

from __future__ import annotations

import triton
import triton.language as tl

from zo_triton.directions import SIGN_COLUMNS_PER_BLOCK, Directions
from zo_triton.hadamard import ROWS_WORD, SHARED_DIRECTION
from zo_triton.kernels.philox import philox

WIDE_WORD = 1 << 62
"""What tells a word that carries a column from one that doesn't."""

_SHARED = tl.constexpr(SHARED_DIRECTION)
_ROWS = tl.constexpr(ROWS_WORD)


def first_direction(directions: Directions) -> int:
    """The first direction with the matrix's order."""
    assert directions.order is not None
    return directions.order.bit_length() << 32 | directions.first


def word_with_column(word: int, directions: Directions, tensor_id: int) -> int:
    """A tensor's counter word with the column index of its first element.

    Raises:
        ValueError: That is not known.
    """
    column = directions.offset(tensor_id) % 2**31 // SIGN_COLUMNS_PER_BLOCK
    return WIDE_WORD | column << 32 | word


@triton.jit
def shared_philox(block, word, counter, ROUNDS: tl.constexpr):
    """The generator's words for blocks of a tensor: a direction's own, or those that orthogonal ones share."""
    direction, step, key0, key1 = counter
    if direction.dtype.primitive_bitwidth == 64:
        # The column above a tensor's word is no part of the counter.
        shared = tl.full((1,), _SHARED, tl.uint32)
        return philox(block, word.to(tl.uint32), shared, step, key0, key1, ROUNDS)
    else:
        return philox(block, word, direction, step, key0, key1, ROUNDS)


@triton.jit
def row_of(counter, ROUNDS: tl.constexpr):
    """Which row of the matrix the counter's direction takes, or each of its directions."""
    direction, step, key0, key1 = counter
    zero = tl.full((), 0, tl.uint32)
    word0, word1, word2, word3 = philox(
        zero, tl.full((), _ROWS, tl.uint32), tl.full((), _SHARED, tl.uint32), step, key0, key1, ROUNDS
    )
    bits = (direction >> 32).to(tl.uint32)
    mask = (tl.full((), 1, tl.uint32) << (bits - 1)) - 1
    shift = tl.maximum(bits >> 1, 1)
    row = direction.to(tl.uint32) ^ (word0 & mask)
    row = tl.mul(row, word1 | 1, sanitize_overflow=False) & mask
    row ^= row >> shift
    row = tl.mul(row, word2 | 1, sanitize_overflow=False) & mask
    row ^= row >> shift
    return row ^ (word3 & mask)


@triton.jit
def _odd(bits):
    """1 where an odd number of a uint32's bits is set, else 0."""
    bits ^= bits >> 16
    bits ^= bits >> 8
    bits ^= bits >> 4
    bits ^= bits >> 2
    return (bits ^ (bits >> 1)) & 1


@triton.jit
def first_column_of(word):
    """Column index of the tensor's first element, which the word carries."""
    return ((word >> 32).to(tl.uint32) & 0x3FFFFFFF) << 5


@triton.jit
def _folded(column, counter):
    """:func:`zo_triton.hadamard.folded` for the order that the counter's direction carries."""
    shift = tl.maximum((counter[0] >> 32).to(tl.uint32) - 1, 5)
    return column ^ (((column & 0x7FFFFFFF) >> shift) & 31)


@triton.jit
def turned(signs, row, column, counter):
    """Packed signs times the matrix's entries in this row, from ``column`` on, a multiple of 32; uint32."""
    one = tl.full((), 1, tl.uint32)
    pattern = (row & one) * 0xAAAAAAAA
    pattern ^= ((row >> 1) & one) * 0xCCCCCCCC
    pattern ^= ((row >> 2) & one) * 0xF0F0F0F0
    pattern ^= ((row >> 3) & one) * 0xFF00FF00
    pattern ^= ((row >> 4) & one) * 0xFFFF0000
    return signs ^ pattern ^ (_odd(row & _folded(column, counter)) * 0xFFFFFFFF)


@triton.jit
def turned_sign(sign, row, column, counter):
    """One bit, uint32 0 or 1, times the matrix's entry in this row and column."""
    return sign ^ _odd(row & _folded(column, counter))
