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
        out_ptr, rows, cols, row_tiles, col_tiles, key0, key1, step, first, whole_word, left_word, right_word,
        DISTRIBUTION: tl.constexpr, ROUNDS: tl.constexpr, RANK: tl.constexpr, RANK_BLOCK: tl.constexpr,
        DTYPE: tl.constexpr, OUT_DTYPE: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    """Writes z_k to out [K, rows, cols], contiguous; programs run over k, row tiles, column tiles."""
    pid = tl.program_id(0)
    col_tile = pid % col_tiles
    row_tile = pid // col_tiles % row_tiles
    k = pid // col_tiles // row_tiles
    counter = counter_of(first + k, step, key0, key1)
    z = direction_tile(
        row_tile * (ROWS // 4), col_tile * COLS, cols, whole_word, left_word, right_word, counter,
        DISTRIBUTION, ROUNDS, RANK, RANK_BLOCK, ROWS, COLS, DTYPE)  # fmt: skip
    row = (row_tile * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    col = (col_tile * COLS + tl.arange(0, COLS)).to(tl.int64)
    offsets = (k.to(tl.int64) * rows + row[:, None]) * cols + col[None, :]
    tl.store(out_ptr + offsets, narrow(z, OUT_DTYPE), mask=(row < rows)[:, None] & (col < cols)[None, :])


def sample(
    out: Tensor,
    directions: Directions,
    tensor_id: int,
    dtype: torch.dtype,
    *,
    tile: dict[str, int] | None = None,
) -> None:
    """``out[k] = z_k``.

    Args:
        out: [K, *shape], any floating dtype.
        directions: Names the K directions.
        tensor_id: The tensor's id.
        dtype: The compute dtype; with bfloat16, z is the rounded value.
        tile: Tile sizes and launch options in place of :func:`zo_triton.kernels.field.tile_sizes`.

    Raises:
        TypeError: ``dtype`` is neither float32 nor bfloat16.
    """
    rows, cols = matrix_shape(out.shape[1:])
    tile, drawing = drawing_arguments(directions, tensor_id, out.shape[1:], dtype, tile)
    drawn = out if out.is_contiguous() else torch.empty_like(out, memory_format=torch.contiguous_format)
    row_tiles, col_tiles = blocks(rows, tile["ROWS"]), blocks(cols, tile["COLS"])
    launch(
        _sample_kernel,
        directions.num * row_tiles * col_tiles,
        out,
        out_ptr=drawn,
        rows=rows,
        cols=cols,
        row_tiles=row_tiles,
        col_tiles=col_tiles,
        OUT_DTYPE=TRITON_DTYPES[out.dtype],
        **drawing,
    )
    if drawn is not out:
        out.copy_(drawn)
