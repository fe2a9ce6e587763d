"""Factors in tiles hold the numbers they are made of, whatever multiplies them."""

import numba
import numpy as np
import pytest

from zo_triton.cpu.squares import most_parts
from zo_triton.cpu.tiles import PARTS, new_left, new_right, pack_columns, pack_rows, pack_sums

# Without its instructions, LLVM calls what no library has to round to bfloat16.
pytestmark = pytest.mark.skipif(not most_parts(), reason="this processor has nothing for bfloat16")

SIZES = {"one-number": (1, 1), "whole-tiles": (64, 32), "edges": (70, 37), "less-than-a-tile": (5, 100)}
"""Products and columns, or rows and products."""


@numba.njit
def columns_of(matrix, transposed, inner, columns, parts):
    tiles = new_right(inner, columns, parts)
    pack_columns(tiles, matrix, transposed, inner, columns)
    return tiles


@numba.njit
def rows_of(matrix, first, rows, inner, factor, parts):
    tiles = new_left(rows, inner, parts)
    pack_rows(tiles, matrix, first, rows, inner, factor)
    return tiles


@numba.njit
def sums_of(base, first, moved, moved_first, rows, inner, factor, parts):
    tiles = new_left(rows, inner, parts)
    pack_sums(tiles, base, first, moved, moved_first, rows, inner, factor)
    return tiles


def widened(halves: np.ndarray) -> np.ndarray:
    """Bfloat16 as float64."""
    return (halves.astype(np.uint32) << 16).view(np.float32).astype(np.float64)


def right_factor(tiles: np.ndarray) -> np.ndarray:
    """[inner, columns] of tiles whose words hold two neighbours of a column, summed over its parts."""
    pairs = np.stack([widened(tiles & 0xFFFF), widened(tiles >> 16)], 4)  # [blocks, steps, parts, 16, 2, 16]
    blocks, steps = tiles.shape[:2]
    return pairs.sum(2).transpose(1, 2, 3, 0, 4).reshape(32 * steps, 16 * blocks)


def left_factor(tiles: np.ndarray) -> np.ndarray:
    """[rows, inner] of tiles of rows, summed over their parts."""
    blocks, steps = tiles.shape[:2]
    return widened(tiles).sum(2).transpose(0, 2, 1, 3).reshape(16 * blocks, 32 * steps)


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def check(found: np.ndarray, wanted: np.ndarray, parts: int) -> None:
    """Nothing but zeros beyond, and all digits in three parts, eight in one."""
    rows, columns = wanted.shape
    assert not found[rows:].any()
    assert not found[:, columns:].any()
    error = np.abs(found[:rows, :columns] - wanted)
    assert (error <= (0 if parts == PARTS else 2.0**-8) * np.abs(wanted)).all()


@pytest.mark.parametrize("parts", [1, PARTS])
@pytest.mark.parametrize("transposed", [False, True], ids=["stored in-out", "stored out-in"])
@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_a_right_factor_holds_its_columns(size, transposed, parts):
    matrix = normal(*size)
    stored = np.ascontiguousarray(matrix.T) if transposed else matrix
    check(right_factor(columns_of(stored, transposed, *size, parts)), matrix.astype(np.float64), parts)


@pytest.mark.parametrize("parts", [1, PARTS])
@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_a_left_factor_holds_its_rows(size, parts):
    rows, inner = size
    matrix = normal(rows + 3, inner)
    wanted = -0.5 * matrix[2 : 2 + rows].astype(np.float64)
    check(left_factor(rows_of(matrix, 2, rows, inner, np.float32(-0.5), parts)), wanted, parts)


@pytest.mark.parametrize("parts", [1, PARTS])
@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_a_left_factor_holds_sums(size, parts):
    rows, inner = size
    base, moved = normal(rows + 2, inner), normal(rows + 1, inner, seed=1)
    wanted = (2 * (base[2:] + moved[1:])).astype(np.float64)
    check(left_factor(sums_of(base, 2, moved, 1, rows, inner, np.float32(2.0), parts)), wanted, parts)
