"""Materialised directions: for references, small tensors and curiosity."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from zo_triton.directions import Directions, matrix_shape
from zo_triton.kernels.arguments import drawing_arguments
from zo_triton.kernels.field import UNSPECIALISED, counter_of, direction_tile
from zo_triton.kernels.launch import TRITON_DTYPES, blocks, launch
from zo_triton.kernels.numeric import narrow


@triton.jit(do_not_specialize=UNSPECIALISED)
def _sample_kernel(
        out_ptr, listed_ptr, rows, cols, row_tiles, col_tiles, key0, key1, step, first, whole_word, left_word,
        right_word, LISTED: tl.constexpr, DISTRIBUTION: tl.constexpr, ROUNDS: tl.constexpr, RANK: tl.constexpr,
        RANK_BLOCK: tl.constexpr, DTYPE: tl.constexpr, OUT_DTYPE: tl.constexpr, ROWS: tl.constexpr,
        COLS: tl.constexpr,
):  # fmt: skip
    """Writes z_k to out [K, rows, cols], contiguous; programs run over k, row tiles, column tiles.

    LISTED: with listed [rows] int64, row i of out is row listed[i] of z_k; ROWS/4 of them make a tile.
    """
    pid = tl.program_id(0)
    col_tile = pid % col_tiles
    row_tile = pid // col_tiles % row_tiles
    k = pid // col_tiles // row_tiles
    counter = counter_of(first + k, step, key0, key1)
    row = (row_tile * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    row_block, kept = row_tile * (ROWS // 4), row < rows
    if LISTED:
        # Each listed row has its group of four drawn, of which it alone is kept; direction_tile adds the range.
        groups = tl.arange(0, ROWS // 4)
        sources = tl.load(listed_ptr + row_block + groups, mask=row_block + groups < rows, other=0)
        row_block = (sources // 4).to(tl.int32) - groups
        row, lane = row // 4, row % 4
        kept = row < rows
        kept &= tl.load(listed_ptr + row, mask=kept, other=0) % 4 == lane
    z = direction_tile(
        row_block, col_tile * COLS, cols, whole_word, left_word, right_word, counter,
        DISTRIBUTION, ROUNDS, RANK, RANK_BLOCK, ROWS, COLS, DTYPE)  # fmt: skip
    col = (col_tile * COLS + tl.arange(0, COLS)).to(tl.int64)
    offsets = (k.to(tl.int64) * rows + row[:, None]) * cols + col[None, :]
    tl.store(out_ptr + offsets, narrow(z, OUT_DTYPE), mask=kept[:, None] & (col < cols)[None, :])


def sample(
    out: Tensor,
    directions: Directions,
    tensor_id: int,
    dtype: torch.dtype,
    rows: Tensor | None = None,
    *,
    tile: dict[str, int] | None = None,
) -> None:
    """``out[k] = z_k``, or ``z_k[rows]``.

    Args:
        out: [K, *shape], any floating dtype; [K, R, *shape[1:]] with ``rows``.
        directions: Names the K directions.
        tensor_id: The tensor's id.
        dtype: The compute dtype; with bfloat16, z is the rounded value.
        rows: The rows wanted of a tensor of two or more dimensions, int64 [R]; None for all.
        tile: Tile sizes and launch options in place of :func:`zo_triton.kernels.field.tile_sizes`.

    Raises:
        TypeError: ``dtype`` is neither float32 nor bfloat16.
    """
    shape = out.shape[1:]
    height, cols = matrix_shape(shape)
    drawn_shape = shape if rows is None else torch.Size((4 * height, cols))
    tile, drawing = drawing_arguments(directions, tensor_id, drawn_shape, dtype, tile)
    drawn = out if out.is_contiguous() else torch.empty_like(out, memory_format=torch.contiguous_format)
    row_tiles, col_tiles = blocks(matrix_shape(drawn_shape)[0], tile["ROWS"]), blocks(cols, tile["COLS"])
    launch(
        _sample_kernel,
        directions.num * row_tiles * col_tiles,
        out,
        out_ptr=drawn,
        listed_ptr=drawn if rows is None else rows.to(out.device).contiguous(),
        rows=height,
        cols=cols,
        row_tiles=row_tiles,
        col_tiles=col_tiles,
        LISTED=rows is not None,
        OUT_DTYPE=TRITON_DTYPES[out.dtype],
        **drawing,
    )
    if drawn is not out:
        out.copy_(drawn)
