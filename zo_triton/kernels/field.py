"""Tiles of the perturbation field: the one routine by which forward, update, Gram and sample draw z.

A tile is [ROWS, COLS] of one matrix. One Philox call gives four rows of it: of 32 columns for signs, of one
column otherwise. Values don't depend on where the tile lies or how large it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
import triton
import triton.language as tl
from torch import Tensor

from zo_triton.directions import PART_LEFT, PART_RIGHT, PART_WHOLE, Directions, tensor_word
from zo_triton.distributions import check_drawn
from zo_triton.kernels.launch import power_of_two
from zo_triton.kernels.numeric import complement, dot, narrow
from zo_triton.kernels.orthogonal import (
    first_column_of,
    first_direction,
    row_of,
    shared_philox,
    turned,
    word_with_column,
)
from zo_triton.kernels.philox import gaussian_pair, laplace, philox, rough_gaussian_pair, uniform

UNSPECIALISED = ("key0", "key1", "step", "first", "whole_word", "left_word", "right_word", "bias_word")
"""Kernel arguments that change from step to step or tensor to tensor: never a reason to compile again."""

DRAWN = ("rademacher", "gaussian", "uniform", "laplace", "hadamard")
"""The distributions that this engine has routines for."""

TILES = {
    # Signs take wide tiles: a warp has full lanes of Philox calls only from 32 blocks of 128 signs on.
    "signs": {"ROWS": 64, "COLS": 128, "num_warps": 4},
    "real": {"ROWS": 32, "COLS": 64, "num_warps": 4},
    "vector": {"ROWS": 4, "COLS": 256, "num_warps": 4},
    "low_rank": {"ROWS": 32, "COLS": 32, "num_warps": 4},
}


def signed(word: int) -> int:
    """A 32-bit word as the int32 with the same bits, which Triton passes as i32 whatever its value."""
    return word - 2**32 if word >= 2**31 else word


_device_step: ContextVar[Tensor | None] = ContextVar("zo_triton_device_step", default=None)


@contextmanager
def step_on_device(step: Tensor) -> Iterator[None]:
    """Kernels launched inside read the step's number when they run, in place of the directions' own.

    Args:
        step: [1] int32 on their device, the number's 32 bits.
    """
    token = _device_step.set(step)
    try:
        yield
    finally:
        _device_step.reset(token)


def counter_arguments(directions: Directions) -> dict[str, int | Tensor]:
    """The generator's key and the counter's step and first direction, as kernel arguments.

    Raises:
        ValueError: This engine has no routine for the distribution.
    """
    check_drawn(directions.elementwise, DRAWN, "triton")
    step = _device_step.get()
    return {
        "key0": signed(directions.seed & 0xFFFFFFFF),
        "key1": signed(directions.seed >> 32),
        "step": signed(directions.step) if step is None else step,
        "first": signed(directions.first) if directions.order is None else first_direction(directions),
    }


def drawn_by(directions: Directions) -> str:
    """Which of the kernels' routines draws an element: signs have one, whatever the directions have in common."""
    return "rademacher" if directions.signs else directions.elementwise


def word_argument(directions: Directions, tensor_id: int) -> int:
    """The counter word of a tensor, as a kernel argument; 0 for an id of -1.

    Raises:
        ValueError: ``hadamard`` directions don't know the tensor's columns.
    """
    if tensor_id < 0:
        return 0
    word = tensor_word(tensor_id, PART_WHOLE)
    return signed(word) if directions.order is None else word_with_column(word, directions, tensor_id)


def word_arguments(directions: Directions, tensor_id: int) -> dict[str, int]:
    """The counter words of a tensor and of its two factors, as kernel arguments; all 0 for an id of -1."""
    parts = {"left_word": PART_LEFT, "right_word": PART_RIGHT}
    return {
        "whole_word": word_argument(directions, tensor_id),
        **{
            name: signed(tensor_word(tensor_id, part)) if tensor_id >= 0 else 0
            for name, part in parts.items()
        },
    }


def padded_rank(rank: int, signs: bool) -> int:
    """Columns of a factor's tile, at most 128: a power of two that holds whole blocks and suits a dot."""
    return min(128, power_of_two(max(rank, 32 if signs else 16)))


def tile_sizes(rows: int, signs: bool, rank: int) -> dict[str, int]:
    """The tile of a kernel that only draws (sample, accumulate), with its launch options."""
    if rank:
        return TILES["low_rank"]
    return TILES["vector" if rows == 1 else "signs" if signs else "real"]


def operand_dtype(dtype: torch.dtype, signs: bool) -> torch.dtype:
    """What a tile that goes into a dot is drawn as: signs are exact in bfloat16, which tensor cores take."""
    return torch.bfloat16 if signs else dtype


@triton.jit
def as_word(number):
    """The counter word that an argument stands for: uint32, or uint64 of what carries more."""
    if number.dtype.primitive_bitwidth == 64:
        return number.to(tl.uint64, bitcast=True)
    else:
        return number.to(tl.uint32, bitcast=True)


@triton.jit
def counter_of(index, step, key0, key1):
    """(direction, step, key0, key1) as words: what all tiles of one direction share; a step may lie in memory."""
    if step.dtype.is_ptr():
        step = tl.load(step)
    return as_word(index), as_word(step), as_word(key0), as_word(key1)


@triton.jit
def four(first, second, third, fourth):
    """Four tiles as two new minor axes of two, which a thread holds whole; in order when they are flattened."""
    return tl.join(tl.join(first, third), tl.join(second, fourth))


@triton.jit
def interleave(word0, word1, word2, word3, ROWS: tl.constexpr, COLS: tl.constexpr):
    """Four [ROWS/4, COLS] → [ROWS, COLS], row 4i + w from word w."""
    return tl.reshape(tl.permute(four(word0, word1, word2, word3), (0, 2, 3, 1)), (ROWS, COLS))


@triton.jit
def sign_words(
    row_blocks,
    col_block,
    col_blocks,
    word,
    counter,
    ROUNDS: tl.constexpr,
    ROWS: tl.constexpr,
    WORDS: tl.constexpr,
):
    """Packed signs, uint32 [ROWS, WORDS]: bit b of word c is column 32·(col_block + c) + b."""
    columns = (col_block + tl.arange(0, WORDS)).to(tl.uint32)
    width = tl.cast(col_blocks, tl.uint32)
    block = row_blocks.to(tl.uint32)[:, None] * width + columns[None, :]
    word0, word1, word2, word3 = shared_philox(block, word, counter, ROUNDS)
    if counter[0].dtype.primitive_bitwidth == 64:
        row = row_of(counter, ROUNDS)
        place = row_blocks.to(tl.uint32)[:, None] * 4 * width + columns[None, :]
        column = first_column_of(word) + (place << 5)
        word0 = turned(word0, row, column, counter)
        word1 = turned(word1, row, column + 32 * width, counter)
        word2 = turned(word2, row, column + 64 * width, counter)
        word3 = turned(word3, row, column + 96 * width, counter)
    return interleave(word0, word1, word2, word3, ROWS, WORDS)


@triton.jit
def expand_signs(
    words, ROWS: tl.constexpr, COLS: tl.constexpr, DTYPE: tl.constexpr, LANES: tl.constexpr = 32
):
    """[ROWS, COLS/LANES] packed signs → [ROWS, COLS] of ±1: the inverted bit becomes the sign bit of a one."""
    lanes = tl.arange(0, LANES).to(tl.uint32)
    inverted = complement(words[:, :, None] >> lanes[None, None, :])
    if DTYPE.primitive_bitwidth == 16:
        ones = ((inverted.to(tl.uint16) << 15) | 0x3F80).to(tl.uint16)
    else:
        ones = (inverted << 31) | 0x3F800000
    return tl.reshape(ones, (ROWS, COLS)).to(DTYPE, bitcast=True)


@triton.jit
def draw_tile(
    row_blocks,
    col,
    cols,
    word,
    counter,
    DISTRIBUTION: tl.constexpr,
    ROUNDS: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
    DTYPE: tl.constexpr,
):
    """One tile of a [·, cols] matrix, in DTYPE (bfloat16: z is the rounded value).

    row_blocks [ROWS/4] holds row//4 of each group of four rows; col is the first column, a multiple of 32 for
    signs, as is COLS. The counter's direction is one word, or [ROWS/4, 1] where each group has its own.
    """
    if DISTRIBUTION == "rademacher":
        words = sign_words(row_blocks, col // 32, (cols + 31) // 32, word, counter, ROUNDS, ROWS, COLS // 32)
        return expand_signs(words, ROWS, COLS, DTYPE)
    else:
        return real_tile(
            row_blocks.to(tl.uint32)[:, None],
            col,
            cols,
            word,
            counter,
            DISTRIBUTION,
            ROUNDS,
            ROWS,
            COLS,
            DTYPE,
        )


@triton.jit
def real_tile(
    row_blocks,
    col,
    cols,
    word,
    counter,
    DISTRIBUTION: tl.constexpr,
    ROUNDS: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
    DTYPE: tl.constexpr,
    APART: tl.constexpr = 1,
):
    """:func:`draw_tile` of real values, of columns that lie APART; row_blocks is uint32 [ROWS/4, 1 or COLS]."""
    block = row_blocks * tl.cast(cols, tl.uint32) + (col + APART * tl.arange(0, COLS)).to(tl.uint32)[None, :]
    direction, step, key0, key1 = counter
    word0, word1, word2, word3 = philox(block, word, direction, step, key0, key1, ROUNDS)
    if DISTRIBUTION == "gaussian" and tl.bfloat16 == DTYPE:
        z0, z1 = rough_gaussian_pair(word0, word1)
        z2, z3 = rough_gaussian_pair(word2, word3)
    elif DISTRIBUTION == "gaussian":
        z0, z1 = gaussian_pair(word0, word1)
        z2, z3 = gaussian_pair(word2, word3)
    elif DISTRIBUTION == "uniform":
        z0, z1, z2, z3 = uniform(word0), uniform(word1), uniform(word2), uniform(word3)
    else:
        tl.static_assert(DISTRIBUTION == "laplace", "unknown distribution")
        z0, z1, z2, z3 = laplace(word0), laplace(word1), laplace(word2), laplace(word3)
    return interleave(narrow(z0, DTYPE), narrow(z1, DTYPE), narrow(z2, DTYPE), narrow(z3, DTYPE), ROWS, COLS)


@triton.jit
def factor_tile(
    row_block,
    start,
    word,
    counter,
    DISTRIBUTION: tl.constexpr,
    ROUNDS: tl.constexpr,
    RANK: tl.constexpr,
    ROWS: tl.constexpr,
    RANK_BLOCK: tl.constexpr,
    DTYPE: tl.constexpr,
):
    """[ROWS, RANK_BLOCK] of a factor from row group row_block and column start; beyond the rank it is 0."""
    row_blocks = row_block + tl.arange(0, ROWS // 4)
    tile = draw_tile(row_blocks, start, RANK, word, counter, DISTRIBUTION, ROUNDS, ROWS, RANK_BLOCK, DTYPE)
    inside = start + tl.arange(0, RANK_BLOCK) < RANK
    return tl.where(inside[None, :], tile.to(tl.float32), 0.0).to(DTYPE)


@triton.jit
def factor_rows(
        rows, start, word, counter, DISTRIBUTION: tl.constexpr, ROUNDS: tl.constexpr, RANK: tl.constexpr,
        ROWS: tl.constexpr, RANK_BLOCK: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """:func:`factor_tile` of any rows, [ROWS]: each makes the call of its four and keeps its own share of it."""
    block = (rows // 4).to(tl.uint32)[:, None]
    odd, late = (rows % 2 == 1)[:, None], (rows % 4 >= 2)[:, None]
    direction, step, key0, key1 = counter
    if DISTRIBUTION == "rademacher":
        # Up to 32 columns are one word's, of which fewer may be wanted.
        LANES: tl.constexpr = RANK_BLOCK if RANK_BLOCK < 32 else 32
        columns = start // 32 + tl.arange(0, RANK_BLOCK // LANES)
        block = block * ((RANK + 31) // 32) + columns.to(tl.uint32)[None, :]
    else:
        block = block * RANK + (start + tl.arange(0, RANK_BLOCK)).to(tl.uint32)[None, :]
    word0, word1, word2, word3 = philox(block, word, direction, step, key0, key1, ROUNDS)
    even_word, odd_word = tl.where(late, word2, word0), tl.where(late, word3, word1)
    own = tl.where(odd, odd_word, even_word)
    if DISTRIBUTION == "rademacher":
        tile = expand_signs(own, ROWS, RANK_BLOCK, DTYPE, LANES)
    elif DISTRIBUTION == "gaussian":
        if tl.bfloat16 == DTYPE:
            z0, z1 = rough_gaussian_pair(even_word, odd_word)
        else:
            z0, z1 = gaussian_pair(even_word, odd_word)
        tile = narrow(tl.where(odd, z1, z0), DTYPE)
    elif DISTRIBUTION == "uniform":
        tile = narrow(uniform(own), DTYPE)
    else:
        tl.static_assert(DISTRIBUTION == "laplace", "unknown distribution")
        tile = narrow(laplace(own), DTYPE)
    inside = start + tl.arange(0, RANK_BLOCK) < RANK
    return tl.where(inside[None, :], tile.to(tl.float32), 0.0).to(DTYPE)


@triton.jit
def direction_tile(
    row_block,
    col,
    cols,
    whole_word,
    left_word,
    right_word,
    counter,
    DISTRIBUTION: tl.constexpr,
    ROUNDS: tl.constexpr,
    RANK: tl.constexpr,
    RANK_BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
    DTYPE: tl.constexpr,
):
    """[ROWS, COLS] of z_k in float32: full (RANK = 0) or A·Bᵀ/√RANK; drawn values are rounded to DTYPE."""
    if RANK == 0:
        row_blocks = row_block + tl.arange(0, ROWS // 4)
        z = draw_tile(
            row_blocks, col, cols, as_word(whole_word), counter, DISTRIBUTION, ROUNDS, ROWS, COLS, DTYPE
        )
        return z.to(tl.float32)
    else:
        product = tl.zeros((ROWS, COLS), tl.float32)
        for start in tl.static_range(0, RANK, RANK_BLOCK):
            left = factor_tile(
                row_block,
                start,
                as_word(left_word),
                counter,
                DISTRIBUTION,
                ROUNDS,
                RANK,
                ROWS,
                RANK_BLOCK,
                DTYPE,
            )
            right = factor_tile(
                col // 4,
                start,
                as_word(right_word),
                counter,
                DISTRIBUTION,
                ROUNDS,
                RANK,
                COLS,
                RANK_BLOCK,
                DTYPE,
            )
            product = dot(left, tl.trans(right), product, "ieee")
        return product * (1.0 / RANK**0.5)
