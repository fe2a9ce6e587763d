"""Orthogonal signs: what turns the sign that all directions share into one direction's own.

A word is 32 signs whose column indices begin at a multiple of 32: its matrix entries are the pattern of the row's
five lowest bits, all inverted if the rest of the row and of the column have an odd number of bits in common. See
:mod:`zo_triton.hadamard`. The key holds, behind what the generator takes, M - 1, the shift and the four words of
the rows' permutation, the shift that folds columns, and each tensor's first column index, modulo 2³².
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numba import uint32

from zo_triton import hadamard
from zo_triton.cpu.compiling import device
from zo_triton.cpu.vectors import population_count
from zo_triton.directions import MAX_TENSORS, Directions

GENERATOR = 4
"""Words of the key that the generator takes: the two halves of the seed, the step, the number of rounds."""

FOLD_AT = GENERATOR + 6
OFFSETS_AT = FOLD_AT + 1
"""Where in the key the tensors' first columns begin."""

_LOWEST_BIT = (
    uint32(0xAAAAAAAA),
    uint32(0xCCCCCCCC),
    uint32(0xF0F0F0F0),
    uint32(0xFF00FF00),
    uint32(0xFFFF0000),
)


def orthogonal_key(directions: Directions) -> np.ndarray:
    """The whole key: uint32 [1, 11 + tensors], of which functions here take the row. Nothing may write to it."""
    assert directions.order is not None
    return _key(
        directions.seed, directions.step, directions.rounds, directions.order, directions.offsets,
        hadamard.row_key(directions),
    )  # fmt: skip


@lru_cache(maxsize=16)
def _key(
    seed: int, step: int, rounds: int, order: int, offsets: tuple[int, ...], row_key: tuple[int, ...]
) -> np.ndarray:
    shift = max(1, order.bit_length() // 2)
    columns = [offset % 2**32 for offset in offsets]
    generator = seed & 0xFFFFFFFF, seed >> 32, step, rounds
    return np.array(
        [[*generator, order - 1, shift, *row_key, hadamard.fold_shift(order), *columns]], np.uint32
    )


@device
def row_of(index, key):
    """Which row of the matrix a direction takes, given its absolute index."""
    mask, shift = key[4], key[5]
    x = uint32(uint32(index) ^ (key[6] & mask))
    for at in range(7, 9):
        x = uint32(uint32(x * (key[at] | uint32(1))) & mask)
        x = uint32(x ^ (x >> shift))
    return uint32(x ^ (key[9] & mask))


@device
def pattern_of(row):
    """The row's entries at 32 columns from a multiple of 32 on: bit b is 1 where that of column b is -1."""
    pattern = uint32(0)
    for bit in range(5):
        if row & (uint32(1) << uint32(bit)):
            pattern = uint32(pattern ^ _LOWEST_BIT[bit])
    return pattern


@device
def inverted(row, column, key):
    """All bits set where the entry at this column index, a multiple of 32, is -1; none where it is 1."""
    column ^= ((column & uint32(0x7FFFFFFF)) >> key[FOLD_AT]) & uint32(31)
    return uint32(uint32(0) - (population_count(uint32(row & column)) & uint32(1)))


@device
def first_column(word, key):
    """Column index of the first element of the tensor with this counter word."""
    at = OFFSETS_AT + word
    return key[at] if at < key.size else uint32(0)


@device
def rows_of(chosen, patterns, index, word, key):
    """Row and pattern of the directions from ``index`` on: uint32 [count] each.

    Row 0, whose entries are 1 throughout, for what is no tensor: applications of layers have columns of their own.
    """
    for k in range(chosen.size):
        chosen[k] = row_of(index + k, key) if word < MAX_TENSORS else uint32(0)
        patterns[k] = pattern_of(chosen[k])
