"""The update: all directions of a step in one pass over the weights, which are read once and written once.

A small tensor has few tiles, and a step may have thousands of directions: then these are dealt out to parts, whose
sums are added up before they reach the weights. With signs, whose coefficients lie on a grid
(:func:`zo_triton.ops.on_grid`), every one of these sums is exact, so that parts change no bit.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from zo_triton.directions import Directions, matrix_shape
from zo_triton.kernels.arguments import drawing_arguments
from zo_triton.kernels.choices import pick, situation, upper
from zo_triton.kernels.field import UNSPECIALISED, counter_of, direction_tile, tile_sizes
from zo_triton.kernels.launch import TRITON_DTYPES, blocks, launch
from zo_triton.kernels.numeric import bound

ENOUGH_PROGRAMS = 264
"""Two for each multiprocessor of the largest chips."""

ELEMENTS, FEWEST_DIRECTIONS = 8192, 16
"""Of a tile, about, and of a part. No config decides on the parts: tiles change no value."""


def directions_of_a_part(elements: int, directions: int) -> int:
    """How many directions one program adds up, for a tensor of so many elements."""
    parts = min(blocks(ENOUGH_PROGRAMS * ELEMENTS, max(elements, ELEMENTS)), directions // FEWEST_DIRECTIONS)
    return blocks(directions, max(1, parts))


@triton.jit(do_not_specialize=UNSPECIALISED)
def _accumulate_kernel(
        tensor_ptr, coefficients_ptr, num_directions, share, rows, cols, tiles, col_tiles,
        stride_part, stride_row, stride_col,
        key0, key1, step, first, whole_word, left_word, right_word,
        DISTRIBUTION: tl.constexpr, ROUNDS: tl.constexpr, RANK: tl.constexpr, RANK_BLOCK: tl.constexpr,
        DTYPE: tl.constexpr, SUM_DTYPE: tl.constexpr, IN_PLACE: tl.constexpr,
        ROWS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    """Σ_k c_k·z_k on one [ROWS, COLS] tile, summed in SUM_DTYPE in the order of k; program = part·tiles + tile.

    IN_PLACE: the only part adds its sum to the tensor. Otherwise each writes its own of [parts, rows, cols].
    """
    pid = tl.program_id(0)
    part, tile = pid // tiles, pid % tiles
    row_tile, col_tile = tile // col_tiles, tile % col_tiles
    total = tl.zeros((ROWS, COLS), SUM_DTYPE)
    for k in range(bound(part * share), bound(tl.minimum(part * share + share, num_directions))):
        coefficient = tl.load(coefficients_ptr + k).to(SUM_DTYPE)
        counter = counter_of(first + k, step, key0, key1)
        z = direction_tile(
            row_tile * (ROWS // 4), col_tile * COLS, cols, whole_word, left_word, right_word, counter,
            DISTRIBUTION, ROUNDS, RANK, RANK_BLOCK, ROWS, COLS, DTYPE)  # fmt: skip
        total += coefficient * z.to(SUM_DTYPE)
    row = (row_tile * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    col = (col_tile * COLS + tl.arange(0, COLS)).to(tl.int64)
    mask = (row < rows)[:, None] & (col < cols)[None, :]
    pointers = (
        tensor_ptr + part.to(tl.int64) * stride_part + row[:, None] * stride_row + col[None, :] * stride_col
    )
    if IN_PLACE:
        total += tl.load(pointers, mask=mask, other=0.0)
    tl.store(pointers, total, mask=mask)


def accumulate(
    tensors: list[Tensor],
    tensor_ids: list[int],
    coefficients: Tensor,
    directions: Directions,
    dtype: torch.dtype,
    *,
    config: dict[str, int] | None = None,
) -> None:
    """``tensor += Σ_k coefficients[k]·z_k`` in place for each tensor.

    Args:
        tensors: float32 or float64, any strides.
        tensor_ids: Their ids.
        coefficients: [K] float32.
        directions: Names the K directions.
        dtype: The compute dtype; with bfloat16, z is the rounded value.
        config: Tile sizes and launch options in place of :func:`zo_triton.kernels.field.tile_sizes`.

    Raises:
        TypeError: A tensor is neither float32 nor float64, or the compute dtype neither float32 nor bfloat16.
        ValueError: There are not K coefficients.
    """
    if coefficients.numel() != directions.num:
        raise ValueError(
            f"expected {directions.num} coefficients, one a direction, got {coefficients.numel()}."
        )
    for tensor in tensors:
        if tensor.dtype not in (torch.float32, torch.float64):
            raise TypeError(
                f"accumulate updates float32 or float64 tensors, got {tensor.dtype}: narrower weights "
                "swallow the update; keep float32 master weights."
            )
    for tensor, tensor_id in zip(tensors, tensor_ids, strict=True):
        matrix = _matrix(tensor)
        _accumulate_matrix(
            matrix, tensor.shape, tensor_id, coefficients.contiguous(), directions, dtype, config
        )
        if matrix.data_ptr() != tensor.data_ptr():
            tensor.copy_(matrix.view(tensor.shape))


def _accumulate_matrix(
    matrix: Tensor,
    shape: torch.Size,
    tensor_id: int,
    coefficients: Tensor,
    directions: Directions,
    dtype: torch.dtype,
    tile: dict[str, int] | None,
) -> None:
    rows, cols = matrix.shape
    if not directions.is_low_rank(shape):
        key = situation(
            "accumulate", matrix.dtype, distribution=directions.elementwise, rows=upper(rows, 1),
            directions=upper(directions.num, 8, 64),
        )  # fmt: skip
        tile = tile or dict(pick(matrix.device, key, tile_sizes(rows, directions.signs, 0)))
    tile, drawing = drawing_arguments(directions, tensor_id, shape, dtype, tile)
    col_tiles = blocks(cols, tile["COLS"])
    tiles, share = (
        blocks(rows, tile["ROWS"]) * col_tiles,
        directions_of_a_part(matrix.numel(), directions.num),
    )
    parts = blocks(directions.num, share)
    sums = matrix[None] if parts == 1 else matrix.new_empty(parts, rows, cols)
    launch(
        _accumulate_kernel,
        parts * tiles,
        matrix,
        tensor_ptr=sums,
        coefficients_ptr=coefficients,
        num_directions=directions.num,
        share=share,
        rows=rows,
        cols=cols,
        tiles=tiles,
        col_tiles=col_tiles,
        stride_part=sums.stride(0),
        stride_row=sums.stride(1),
        stride_col=sums.stride(2),
        SUM_DTYPE=TRITON_DTYPES[matrix.dtype],
        IN_PLACE=parts == 1,
        **drawing,
    )
    if parts > 1:
        matrix.add_(sums.sum(0))


def _matrix(tensor: Tensor) -> Tensor:
    """The tensor as the field's matrix: a view where the strides allow, else a copy."""
    return tensor.detach().reshape(matrix_shape(tensor.shape))
