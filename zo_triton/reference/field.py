"""The perturbation field in NumPy: Philox words, and the value each distribution makes of them.

Let w be a word and k = w >> 8 its upper 24 bits. The mappings are chosen so that everything up to the first
logarithm or cosine is exact in float32:

* Rademacher: bit 1 is +1, bit 0 is -1.
* Hadamard: the same sign for all directions, times an entry of the matrix (:mod:`zo_triton.hadamard`).
* uniform: √3·m with m = (2k + 1 - 2²⁴)·2⁻²⁴, odd multiples of 2⁻²⁴ in (-1, 1).
* Laplace: -sign(m)·ln(1 - |m|)/√2 with the same m.
* Gaussian: words (0, 1) give radius √(-2 ln u) with u = (k₀ + 1)·2⁻²⁴ in (0, 1] and angle 2π·k₁·2⁻²⁴; row 0
  of the block takes the cosine, row 1 the sine; words (2, 3) give rows 2 and 3 likewise.
"""

from __future__ import annotations

import numpy as np

from zo_triton import hadamard
from zo_triton.directions import (
    MAX_TENSORS,
    ROWS_PER_BLOCK,
    SIGN_COLUMNS_PER_BLOCK,
    Directions,
    padded_columns,
)
from zo_triton.distributions import check_drawn
from zo_triton.philox import philox


def sample_matrix(directions: Directions, index: int, word: int, rows: int, cols: int) -> np.ndarray:
    """One matrix of the field in float64, before any per-direction scale.

    Args:
        directions: Supplies seed, step, rounds and distribution.
        index: The direction's absolute index, ``directions.first`` included.
        word: The tensor's counter word, from :func:`zo_triton.directions.tensor_word`.
        rows: Matrix rows.
        cols: Matrix columns.

    Returns:
        float64, shape [rows, cols].

    Raises:
        ValueError: There is no routine for this distribution here.
    """
    words = words_of(directions, index, word, rows, cols)
    values = _VALUES[directions.elementwise](words)
    padded_shape = words.shape[0] * ROWS_PER_BLOCK, words.shape[1] * values.shape[3]
    padded = values.transpose(0, 2, 1, 3).reshape(padded_shape)
    drawn = padded[:rows, :cols]
    if directions.order is None or word >= MAX_TENSORS:  # nodes have column indices of their own
        return drawn
    columns = directions.offset(word) + padded_columns(cols) * np.arange(rows)[:, None] + np.arange(cols)
    columns = hadamard.folded(directions.order, columns)
    return drawn * hadamard.entries(directions.one(index), columns)[0]


def words_of(directions: Directions, index: int, word: int, rows: int, cols: int) -> np.ndarray:
    """The generator's words for one matrix; arguments as in :func:`sample_matrix`.

    Returns:
        uint32 [blocks of rows, blocks of columns, 4].

    Raises:
        ValueError: There is no routine for this distribution here.
    """
    check_drawn(directions.elementwise, _VALUES, "reference")
    width = SIGN_COLUMNS_PER_BLOCK if directions.signs else 1
    row_blocks, col_blocks = -(-rows // ROWS_PER_BLOCK), -(-cols // width)
    counter = np.empty((row_blocks * col_blocks, 4), np.uint32)
    counter[:, 0] = np.arange(row_blocks * col_blocks, dtype=np.uint64)
    direction = index if directions.order is None else hadamard.SHARED_DIRECTION
    counter[:, 1:] = word, direction, directions.step
    key = directions.seed & 0xFFFFFFFF, directions.seed >> 32
    return philox(counter, key, directions.rounds).reshape(row_blocks, col_blocks, ROWS_PER_BLOCK)


def _signs(words: np.ndarray) -> np.ndarray:
    bits = words[..., None] >> np.arange(SIGN_COLUMNS_PER_BLOCK, dtype=np.uint32) & 1
    return 2.0 * bits - 1.0


def _centred(words: np.ndarray) -> np.ndarray:
    return (2.0 * (words >> 8)[..., None] + 1.0 - 2.0**24) * 2.0**-24


def _uniform(words: np.ndarray) -> np.ndarray:
    return np.sqrt(3.0) * _centred(words)


def _laplace(words: np.ndarray) -> np.ndarray:
    m = _centred(words)
    return -np.sign(m) * np.log(1.0 - np.abs(m)) / np.sqrt(2.0)


def _gaussian(words: np.ndarray) -> np.ndarray:
    k = (words >> 8)[..., None].astype(np.float64)
    radius = np.sqrt(-2.0 * np.log((k[:, :, 0::2] + 1.0) * 2.0**-24))
    angle = 2.0 * np.pi * k[:, :, 1::2] * 2.0**-24
    pairs = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=3)
    return pairs.reshape(k.shape)


_VALUES = {
    "rademacher": _signs,
    "hadamard": _signs,
    "gaussian": _gaussian,
    "uniform": _uniform,
    "laplace": _laplace,
}
