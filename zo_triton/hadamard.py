"""Orthogonal signs: which row of the Sylvester–Hadamard matrix a direction takes, and what its entries are.

Direction k of a step has the signs s_j·(−1)^popcount(row(k) & j), j being an element's column index and s_j a
random sign of its own that all directions of the step share. The matrix has order M, a power of two; a row is
below M, so that a column index needs no modulo: columns that are equal modulo M share their entries and differ by
s_j alone. Rows are chosen without repetition, so that over a block of M columns two directions are orthogonal.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from zo_triton.directions import matrix_shape, padded_columns
from zo_triton.philox import philox_block

if TYPE_CHECKING:
    from zo_triton.directions import Directions

MAX_TABLE = 2**16
"""The largest order for which :func:`gram` keeps its table, of 8 bytes a row; 512 more while it is made."""

SHARED_DIRECTION = 0xFFFFFFFF
"""The direction's counter word of a sign that all directions share."""

ROWS_WORD = 0xFFFFFFFF
"""The tensor's counter word of the four words that permute the rows."""


def row_key(directions: Directions) -> tuple[int, int, int, int]:
    """The four words that permute the rows in this step."""
    return _row_key(directions.seed, directions.step, directions.rounds)


@lru_cache(maxsize=8)
def _row_key(seed: int, step: int, rounds: int) -> tuple[int, int, int, int]:
    key = seed & 0xFFFFFFFF, seed >> 32
    first, second, third, last = philox_block((0, ROWS_WORD, SHARED_DIRECTION, step), key, rounds)
    return first, second, third, last


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


def fold_shift(order: int) -> int:
    """By how many bits :func:`folded` moves a column index: log₂ of the size of the blocks that it turns."""
    return max(5, order.bit_length() - 1)


def folded(order: int, columns: np.ndarray) -> np.ndarray:
    """The matrix's columns for column indices of weights: j with the five lowest bits of its block's number on top.

    Rows of tensors begin at whole words of 32 columns. Narrow ones would therefore meet the same few columns modulo
    M again and again; so each block of M columns (32 if M is smaller) is turned against the one before it by an
    exclusive or, which for a full one is another order of the same columns. Below M nothing changes.

    Args:
        order: M.
        columns: Column indices, int64.
    """
    return columns ^ (columns % 2**31 >> fold_shift(order)) % 32


def entries(directions: Directions, columns: np.ndarray) -> np.ndarray:
    """The matrix's entries for each direction and column index: float64 [K, *columns.shape] of ±1."""
    chosen = rows(directions).astype(np.uint64).reshape(-1, *[1] * columns.ndim)
    return 1.0 - 2.0 * parity(chosen & columns.astype(np.uint64))


def gram(
    directions: Directions, shapes: Sequence[Sequence[int]], tensor_ids: Sequence[int]
) -> np.ndarray | None:
    """Inner products of the directions over some tensors, without looking at any of their elements.

    z_k·z_l is Σ_j (-1)^popcount(x & j) with x = row(k) ^ row(l) over all elements' columns j: the Walsh-Hadamard
    transform, at x, of how many elements have each column modulo M. The transform is the same in every step.

    Args:
        directions: Names the K directions.
        shapes: Of the tensors.
        tensor_ids: Their ids.

    Returns:
        float64 [K, K], exact integers; None if the table would be too large (:data:`MAX_TABLE`).
    """
    assert directions.order is not None
    if directions.order > MAX_TABLE:
        return None
    places = tuple(
        (directions.offset(tensor_id), *matrix_shape(shape))
        for shape, tensor_id in zip(shapes, tensor_ids, strict=True)
    )
    chosen = rows(directions)
    return _spectrum(directions.order, places)[chosen[:, None] ^ chosen]


@lru_cache(maxsize=8)
def _spectrum(order: int, places: tuple[tuple[int, int, int], ...]) -> np.ndarray:
    """Σ_j (-1)^popcount(x & j) for each x below the order; places: offset, rows and columns of tensors."""
    period = 32 << fold_shift(order)  # of the columns that the indices stand for
    changes = np.zeros(2 * period + 1, np.int64)
    whole = 0
    for offset, height, cols in places:
        starts = (offset + padded_columns(cols) * np.arange(height)) % period
        whole += height * (cols // period)
        changes += np.bincount(starts, minlength=changes.size)
        changes -= np.bincount(starts + cols % period, minlength=changes.size)
    counts = np.cumsum(changes[:-1]).reshape(2, period).sum(0) + whole
    columns = folded(order, np.arange(period)) % order
    sums, size = np.bincount(columns, counts, minlength=order), 1
    while size < order:
        pairs = sums.reshape(-1, 2, size)
        sums = np.stack([pairs[:, 0] + pairs[:, 1], pairs[:, 0] - pairs[:, 1]], axis=1).reshape(-1)
        size *= 2
    return sums
