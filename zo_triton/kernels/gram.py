"""Inner products of the directions, z_k·z_l, without storing any z.

A program draws a tile of elements for a block of directions as the matrix [directions, elements] and
multiplies it by its transpose. Its sums over many tiles are float64; those of all programs are added in a
fixed order, so that the result is the same on every run, and for Rademacher an exact integer.

With low rank, z_k·z_l = Σ_ij (A_kᵀA_l)_ij·(B_kᵀB_l)_ij / r: a program takes one pair of directions and needs
(rows + cols)·r values instead of rows·cols.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from zo_triton import hadamard
from zo_triton.directions import Directions, matrix_shape
from zo_triton.kernels.choices import pick, situation, upper
from zo_triton.kernels.field import (
    UNSPECIALISED,
    as_word,
    counter_arguments,
    counter_of,
    draw_tile,
    drawn_by,
    factor_tile,
    operand_dtype,
    padded_rank,
    word_arguments,
)
from zo_triton.kernels.launch import blocks, compute_dtype, launch
from zo_triton.kernels.numeric import bound, dot

CONFIGS = {
    # A tile is BLOCK_K directions × ROWS·COLS elements.
    "signs": {"BLOCK_K": 16, "ROWS": 16, "COLS": 32, "num_warps": 4},
    "real": {"BLOCK_K": 16, "ROWS": 4, "COLS": 16, "num_warps": 4},
    "vector": {"BLOCK_K": 16, "ROWS": 4, "COLS": 32, "num_warps": 4},
}
LOW_RANK_CONFIG = {"BLOCK": 64, "num_warps": 4}

MAX_CHUNKS = 256
"""Most partial sums a pair of direction blocks: what the fixed-order addition reads is bounded by it."""

ENOUGH_PROGRAMS = 4096
"""Where pairs of blocks make so many programs, sums are not divided further: they take 8 MiB, or 8·K² bytes."""


@triton.jit
def _tile_of_directions(
        k, row_block, col, rows, cols, word, first, step, key0, key1,
        DISTRIBUTION: tl.constexpr, ROUNDS: tl.constexpr,
        BLOCK_K: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """[BLOCK_K, ROWS·COLS] of z_k …: to the generator the directions are further row groups of one tile."""
    GROUPS: tl.constexpr = ROWS // 4
    group = tl.arange(0, BLOCK_K * GROUPS)
    counter = counter_of((first + (k + group // GROUPS))[:, None], step, key0, key1)
    row_blocks = row_block + group % GROUPS
    tile = draw_tile(
        row_blocks, col, cols, as_word(word), counter, DISTRIBUTION, ROUNDS, BLOCK_K * ROWS, COLS, DTYPE
    )
    row = row_block * 4 + tl.arange(0, BLOCK_K * ROWS) % ROWS
    inside = (row < rows)[:, None] & (col + tl.arange(0, COLS) < cols)[None, :]
    return tl.reshape(tl.where(inside, tile.to(tl.float32), 0.0).to(DTYPE), (BLOCK_K, ROWS * COLS))


@triton.jit(do_not_specialize=UNSPECIALISED)
def _gram_kernel(
        partial_ptr, num_directions, rows, cols, col_tiles, tiles, chunks, k_blocks,
        key0, key1, step, first, whole_word, left_word, right_word,
        DISTRIBUTION: tl.constexpr, ROUNDS: tl.constexpr, DTYPE: tl.constexpr,
        BLOCK_K: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    """Writes partial [chunks, K, K] float64 on and above the diagonal; chunk c takes tiles c, c + chunks, ….

    Program = (chunk·k_blocks + block of k)·k_blocks + block of l.
    """
    pid = tl.program_id(0)
    l_block, k_block, chunk = pid % k_blocks, pid // k_blocks % k_blocks, pid // k_blocks // k_blocks
    if k_block <= l_block:
        total = tl.zeros((BLOCK_K, BLOCK_K), tl.float64)
        for tile in range(bound(chunk), bound(tiles), bound(chunks)):
            row_block, col = tile // col_tiles * (ROWS // 4), tile % col_tiles * COLS
            left = _tile_of_directions(
                k_block * BLOCK_K, row_block, col, rows, cols, whole_word, first, step, key0, key1,
                DISTRIBUTION, ROUNDS, BLOCK_K, ROWS, COLS, DTYPE)  # fmt: skip
            right = left
            if k_block != l_block:
                right = _tile_of_directions(
                    l_block * BLOCK_K, row_block, col, rows, cols, whole_word, first, step, key0, key1,
                    DISTRIBUTION, ROUNDS, BLOCK_K, ROWS, COLS, DTYPE)  # fmt: skip
            product = dot(left, tl.trans(right), tl.zeros((BLOCK_K, BLOCK_K), tl.float32), "ieee")
            total += product.to(tl.float64)
        k, other = k_block * BLOCK_K + tl.arange(0, BLOCK_K), l_block * BLOCK_K + tl.arange(0, BLOCK_K)
        offsets = (chunk.to(tl.int64) * num_directions + k[:, None]) * num_directions + other[None, :]
        mask = (k < num_directions)[:, None] & (other < num_directions)[None, :]
        tl.store(partial_ptr + offsets, total, mask=mask)


@triton.jit
def _factor_product(
        size, word, k_counter, l_counter, i, j, DISTRIBUTION: tl.constexpr, ROUNDS: tl.constexpr,
        RANK: tl.constexpr, RANK_BLOCK: tl.constexpr, DTYPE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """F_kᵀF_l of one factor, columns i … of F_k and j … of F_l: [RANK_BLOCK, RANK_BLOCK] float64."""
    total = tl.zeros((RANK_BLOCK, RANK_BLOCK), tl.float64)
    zero = tl.zeros((RANK_BLOCK, RANK_BLOCK), tl.float32)
    for row in range(0, bound(size), BLOCK):
        mask = (row + tl.arange(0, BLOCK) < size)[:, None]
        left = factor_tile(row // 4, i, word, k_counter, DISTRIBUTION, ROUNDS, RANK, BLOCK, RANK_BLOCK, DTYPE)
        right = factor_tile(
            row // 4, j, word, l_counter, DISTRIBUTION, ROUNDS, RANK, BLOCK, RANK_BLOCK, DTYPE
        )
        left = tl.where(mask, left.to(tl.float32), 0.0).to(DTYPE)
        total += dot(tl.trans(left), right, zero, "ieee").to(tl.float64)
    return total


@triton.jit(do_not_specialize=UNSPECIALISED)
def _low_rank_gram_kernel(
        out_ptr, num_directions, rows, cols, key0, key1, step, first, whole_word, left_word, right_word,
        DISTRIBUTION: tl.constexpr, ROUNDS: tl.constexpr, RANK: tl.constexpr, RANK_BLOCK: tl.constexpr,
        DTYPE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Writes out [K, K] float64, unscaled by 1/r, on and above the diagonal; program = k·K + l."""
    pid = tl.program_id(0)
    k, other = pid // num_directions, pid % num_directions
    if k <= other:
        k_counter = counter_of(first + k, step, key0, key1)
        l_counter = counter_of(first + other, step, key0, key1)
        word_of_left, word_of_right = as_word(left_word), as_word(right_word)
        total = tl.zeros((RANK_BLOCK, RANK_BLOCK), tl.float64)
        for i in range(0, RANK, RANK_BLOCK):
            for j in range(0, RANK, RANK_BLOCK):
                left = _factor_product(
                    rows, word_of_left, k_counter, l_counter, i, j,
                    DISTRIBUTION, ROUNDS, RANK, RANK_BLOCK, DTYPE, BLOCK)  # fmt: skip
                right = _factor_product(
                    cols, word_of_right, k_counter, l_counter, i, j,
                    DISTRIBUTION, ROUNDS, RANK, RANK_BLOCK, DTYPE, BLOCK)  # fmt: skip
                total += left * right
        tl.store(out_ptr + k.to(tl.int64) * num_directions + other, tl.sum(tl.sum(total, axis=1), axis=0))


def gram(
    out: Tensor,
    tensors: list[Tensor],
    tensor_ids: list[int],
    directions: Directions,
    dtype: torch.dtype,
    *,
    config: dict[str, int] | None = None,
) -> None:
    """``out[k, l] = Σ_tensors z_k·z_l``.

    Args:
        out: [K, K] float64.
        tensors: Only their shapes are read.
        tensor_ids: Their ids.
        directions: Names the K directions.
        dtype: The compute dtype; with bfloat16, z is the rounded value.
        config: Tile sizes and launch options of the full-rank kernel in place of :data:`CONFIGS`.

    Raises:
        TypeError: ``dtype`` is neither float32 nor bfloat16.
    """
    if directions.order is not None:
        counted = hadamard.gram(directions, [tensor.shape for tensor in tensors], tensor_ids)
        if counted is not None:
            out.copy_(torch.from_numpy(counted))
            return
    total = torch.zeros(directions.num, directions.num, dtype=torch.float64, device=out.device)
    for tensor, tensor_id in zip(tensors, tensor_ids, strict=True):
        shape = tuple(tensor.shape)
        if tensor.numel() and directions.is_low_rank(shape):
            total += _low_rank(shape, tensor_id, directions, dtype, out.device)
        elif tensor.numel():
            total += _full_rank(shape, tensor_id, directions, dtype, out.device, config)
    out.copy_(total.triu() + total.triu(1).T)


def _common(tensor_id: int, directions: Directions, dtype: torch.dtype) -> dict[str, object]:
    return {
        **counter_arguments(directions),
        **word_arguments(directions, tensor_id),
        "DISTRIBUTION": drawn_by(directions),
        "ROUNDS": directions.rounds,
        "DTYPE": compute_dtype(operand_dtype(dtype, directions.signs)),
    }


def _full_rank(
    shape: tuple[int, ...],
    tensor_id: int,
    directions: Directions,
    dtype: torch.dtype,
    device: torch.device,
    config: dict[str, int] | None,
) -> Tensor:
    """One tensor's [K, K], valid on and above the diagonal."""
    rows, cols = matrix_shape(shape)
    own = CONFIGS["vector" if rows == 1 else "signs" if directions.signs else "real"]
    key = situation("gram", torch.float32, distribution=directions.elementwise, rows=upper(rows, 1))
    chosen = config or pick(device, key, own)
    col_tiles = blocks(cols, chosen["COLS"])
    tiles = blocks(rows, chosen["ROWS"]) * col_tiles
    k_blocks = blocks(directions.num, chosen["BLOCK_K"])
    chunks = min(tiles, MAX_CHUNKS, max(1, ENOUGH_PROGRAMS // k_blocks**2))
    partial = torch.zeros(chunks, directions.num, directions.num, dtype=torch.float64, device=device)
    launch(
        _gram_kernel,
        chunks * k_blocks * k_blocks,
        partial,
        partial_ptr=partial,
        num_directions=directions.num,
        rows=rows,
        cols=cols,
        col_tiles=col_tiles,
        tiles=tiles,
        chunks=chunks,
        k_blocks=k_blocks,
        **_common(tensor_id, directions, dtype),
        **chosen,
    )
    return partial.sum(0)


def _low_rank(
    shape: tuple[int, ...], tensor_id: int, directions: Directions, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """One tensor's [K, K], valid on and above the diagonal."""
    (rows, cols), rank = matrix_shape(shape), directions.rank or 1
    total = torch.zeros(directions.num, directions.num, dtype=torch.float64, device=device)
    launch(
        _low_rank_gram_kernel,
        directions.num**2,
        total,
        out_ptr=total,
        num_directions=directions.num,
        rows=rows,
        cols=cols,
        **_common(tensor_id, directions, dtype),
        RANK=rank,
        RANK_BLOCK=min(32, padded_rank(rank, directions.signs)),
        **LOW_RANK_CONFIG,
    )
    return total / rank
