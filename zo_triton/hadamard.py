"""Orthogonal signs: which row of the Sylvester–Hadamard matrix a direction takes, and what its entries are.

Direction k of a step has the signs s_j·(−1)^popcount(row(k) & j), j being an element's column index and s_j a
random sign of its own that all directions of the step share. The matrix has order M, a power of two; a row is
below M, so that a column index needs no modulo: columns that are equal modulo M share their entries and differ by
s_j alone. Rows are chosen without repetition, so that over any M successive columns two directions are orthogonal.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from zo_triton.philox import philox

if TYPE_CHECKING:
    from zo_triton.directions import Directions

SHARED_DIRECTION = 0xFFFFFFFF
"""The direction's counter word of a sign that all directions share."""

ROWS_WORD = 0xFFFFFFFF
"""The tensor's counter word of the four words that permute the rows."""


def row_key(directions: Directions) -> tuple[int, int, int, int]:
    """The four words that permute the rows in this step."""
    return _row_key(directions.seed, directions.step, directions.rounds)


@lru_cache(maxsize=8)
def _row_key(seed: int, step: int, rounds: int) -> tuple[int, int, int, int]:
    counter = np.array([0, ROWS_WORD, SHARED_DIRECTION, step], np.uint32)
    words = philox(counter, (seed & 0xFFFFFFFF, seed >> 32), rounds)
    return tuple(int(word) for word in words)  # type: ignore[return-value]


def rows(directions: Directions) -> np.ndarray:
    """Which row of the matrix each direction takes: uint32 [K], no two alike.

    k is permuted by two rounds of a product with an odd number and a shift, keyed by the step: both are bijections
    of the numbers below M.
    """
    assert directions.order is not None
    mask = np.uint32(directions.order - 1)
    shift = np.uint32(max(1, directions.order.bit_length() // 2))
    first, second, third, last = (np.uint32(word) for word in row_key(directions))
    x = np.arange(directions.first, directions.first + directions.num, dtype=np.uint32) ^ (first & mask)
    for word in (second, third):
        x = (x * (word | np.uint32(1))) & mask
        x ^= x >> shift
    return x ^ (last & mask)


def parity(numbers: np.ndarray) -> np.ndarray:
    """Whether an odd number of bits is set: 0 or 1, elementwise, of unsigned integers of any width."""
    odd = numbers.copy()
    for shift in (32, 16, 8, 4, 2, 1):
        if shift < 8 * odd.itemsize:
            odd ^= odd >> odd.dtype.type(shift)
    return odd & odd.dtype.type(1)


def entries(directions: Directions, columns: np.ndarray) -> np.ndarray:
    """The matrix's entries for each direction and column index: float64 [K, *columns.shape] of ±1."""
    chosen = rows(directions).astype(np.uint64).reshape(-1, *[1] * columns.ndim)
    return 1.0 - 2.0 * parity(chosen & columns.astype(np.uint64))
