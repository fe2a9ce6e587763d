"""The update: all directions of a step in one pass over the weights.

A tensor that fills the chip by itself is read once and written once. The others go in groups, which share a launch
and memory for their sums, since a small tensor has few tiles. A group that has few, too, deals thousands of
directions out to parts, whose sums are added up before they reach the weights. With signs, whose coefficients lie
on a grid (:func:`zo_triton.ops.on_grid`), all these sums are exact: neither groups nor parts change a bit.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import prod
from typing import NamedTuple

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
from zo_triton.kernels.tensor_groups import Group, entry_of, groups, number_of, table, words_of

ENOUGH_PROGRAMS = 528
"""Four for each multiprocessor of the largest chips, which runs as many at once; of two or three each, some would
have one more than others, half as much again."""

ELEMENTS, FEWEST_DIRECTIONS = 8192, 16
"""Of a tile, about, and of a part. No config decides on the parts: tiles change no value."""


def directions_of_a_part(elements: int, directions: int) -> int:
    """How many directions one program adds up, for tensors of so many elements; all where half of it is enough."""
    parts = min(ENOUGH_PROGRAMS * ELEMENTS // max(elements, ELEMENTS), directions // FEWEST_DIRECTIONS)
    return blocks(directions, max(1, parts))


@triton.jit(do_not_specialize=(*UNSPECIALISED, "share", "tiles", "stride_part"))
def _accumulate_kernel(
        out_ptr, table_ptr, coefficients_ptr, num_directions, share, rows, cols, tiles, col_tiles,
        stride_part, stride_row, stride_col,
        key0, key1, step, first, whole_word, left_word, right_word,
        DISTRIBUTION: tl.constexpr, ROUNDS: tl.constexpr, RANK: tl.constexpr, RANK_BLOCK: tl.constexpr,
        DTYPE: tl.constexpr, SUM_DTYPE: tl.constexpr, GROUPED: tl.constexpr,
        ROWS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    """Σ_k c_k·z_k on one [ROWS, COLS] tile, summed in SUM_DTYPE in the order of k; program = part·tiles + tile.

    GROUPED: of the tensor in the table (see :mod:`zo_triton.kernels.tensor_groups`) that the tile belongs to, each
    part to its own row of [parts, elements]. Otherwise added to the one tensor [rows, cols], in one part.
    """
    pid = tl.program_id(0)
    part, tile = pid // tiles, pid % tiles
    if GROUPED:
        entry = entry_of(table_ptr, tile)
        tile -= number_of(table_ptr, entry, 0)
        rows, cols = number_of(table_ptr, entry, 1), number_of(table_ptr, entry, 2)
        out_ptr += part.to(tl.int64) * stride_part + number_of(table_ptr, entry, 3)
        wide: tl.constexpr = first.dtype.primitive_bitwidth == 64
        whole_word, left_word, right_word = words_of(table_ptr, entry, wide)
        stride_row, col_tiles = cols, tl.cdiv(cols, COLS)
    row_tile, col_tile = tile // col_tiles, tile % col_tiles
    total = tl.zeros((ROWS, COLS), SUM_DTYPE)
    for k in range(bound(part * share), bound(tl.minimum(part * share + share, num_directions))):
        coefficient = tl.load(coefficients_ptr + k).to(SUM_DTYPE)
        counter = counter_of(first + k, step, key0, key1)
        z = direction_tile(
            row_tile * (ROWS // 4), col_tile * COLS, cols, whole_word, left_word, right_word, counter,
            DISTRIBUTION, ROUNDS, RANK, RANK_BLOCK, ROWS, COLS, DTYPE)  # fmt: skip
        total += coefficient * z.to(SUM_DTYPE)
    # From the tile's corner on, where offsets are constants of the code and take no registers.
    out_ptr += (row_tile * ROWS).to(tl.int64) * stride_row + (col_tile * COLS).to(tl.int64) * stride_col
    row, col = tl.arange(0, ROWS), tl.arange(0, COLS)
    mask = (row < rows - row_tile * ROWS)[:, None] & (col < cols - col_tile * COLS)[None, :]
    pointers = out_ptr + row.to(tl.int64)[:, None] * stride_row + col.to(tl.int64)[None, :] * stride_col
    if not GROUPED:
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
    update = _Update(coefficients.contiguous(), directions, dtype, config)
    for group, room in _with_room(groups(tensors, tensor_ids, ENOUGH_PROGRAMS * ELEMENTS), directions.num):
        if room is None:
            _add_to_tensor(update, group.tensors[0], group.ids[0])
        else:
            _add_to_group(update, group, room)


class _Update(NamedTuple):
    """:func:`accumulate`'s arguments beside the tensors."""

    coefficients: Tensor
    directions: Directions
    dtype: torch.dtype
    config: dict[str, int] | None

    def drawing(self, tensor: Tensor, tensor_id: int) -> tuple[dict[str, int], dict[str, object]]:
        """The tile for this tensor, and what the kernel is told of directions, sums and it."""
        directions, tile, rows = self.directions, self.config, matrix_shape(tensor.shape)[0]
        if not directions.is_low_rank(tensor.shape):
            key = situation(
                "accumulate", tensor.dtype, distribution=directions.elementwise, rows=upper(rows, 1),
                directions=upper(directions.num, 8, 64),
            )  # fmt: skip
            tile = tile or dict(pick(tensor.device, key, tile_sizes(rows, directions.signs, 0)))
        tile, arguments = drawing_arguments(directions, tensor_id, tensor.shape, self.dtype, tile)
        return tile, {
            "coefficients_ptr": self.coefficients,
            "num_directions": directions.num,
            "SUM_DTYPE": TRITON_DTYPES[tensor.dtype],
            **arguments,
        }


def _with_room(plan: Iterable[Group], directions: int) -> list[tuple[Group, Tensor | None]]:
    """Each group with memory for its sums: [parts, elements], and one row more for their sum if there are several.

    None for a tensor to which its only sum is added at once. Groups of one dtype take turns in one place, and all
    memory is there before anything moves.
    """
    shapes: list[tuple[Group, tuple[int, int] | None]] = []
    sizes: dict[torch.dtype, int] = {}
    for group in plan:
        parts = blocks(directions, directions_of_a_part(group.elements, directions))
        shape = None if parts == len(group.tensors) == 1 else (parts + (parts > 1), group.elements)
        shapes.append((group, shape))
        sizes[group.dtype] = max(sizes.get(group.dtype, 0), prod(shape) if shape else 0)
    room = {dtype: torch.empty(size, dtype=dtype, device=group.device) for dtype, size in sizes.items()}
    return [(group, shape and room[group.dtype][: prod(shape)].view(shape)) for group, shape in shapes]


def _add_to_tensor(update: _Update, tensor: Tensor, tensor_id: int) -> None:
    """In one part, to the tensor itself where its strides describe a matrix, else to a copy."""
    matrix = tensor.detach().reshape(matrix_shape(tensor.shape))
    tile, arguments = update.drawing(tensor, tensor_id)
    (rows, cols), col_tiles = matrix.shape, blocks(matrix.shape[1], tile["COLS"])
    tiles = blocks(rows, tile["ROWS"]) * col_tiles
    launch(
        _accumulate_kernel,
        tiles,
        matrix,
        out_ptr=matrix,
        table_ptr=matrix,
        share=update.directions.num,
        rows=rows,
        cols=cols,
        tiles=tiles,
        col_tiles=col_tiles,
        stride_part=0,
        stride_row=matrix.stride(0),
        stride_col=matrix.stride(1),
        GROUPED=False,
        **arguments,
    )
    if matrix.data_ptr() != tensor.data_ptr():
        tensor.copy_(matrix.view(tensor.shape))


def _add_to_group(update: _Update, group: Group, room: Tensor) -> None:
    """Matrices in one launch, vectors in another, whose tiles have another shape; then one addition to all."""
    sums, total = room[len(room) > 1 :], room[0]
    for members in group.alike(update.directions):
        tile, arguments = update.drawing(group.tensors[members[0]], group.ids[members[0]])
        content, tiles = group.entries(members, update.directions, tile["ROWS"], tile["COLS"])
        launch(
            _accumulate_kernel,
            len(sums) * tiles,
            sums,
            out_ptr=sums,
            table_ptr=table(content, sums.device),
            share=blocks(update.directions.num, len(sums)),
            rows=1,
            cols=1,
            tiles=tiles,
            col_tiles=1,
            stride_part=group.elements,
            stride_row=1,
            stride_col=1,
            GROUPED=True,
            **arguments,
        )
    if len(sums) > 1:
        torch.sum(sums, 0, out=total)
    torch._foreach_add_([tensor.detach() for tensor in group.tensors], group.split(total))
