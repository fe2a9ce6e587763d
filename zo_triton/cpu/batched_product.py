"""Sums of products of many small matrices, in torch's batched GEMM or in squares."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numba import float32, uintp
from torch import Tensor

from zo_triton._precision import factor, rounds_factors
from zo_triton.cpu.addresses import matrix_at
from zo_triton.cpu.compiling import kernel
from zo_triton.cpu.squares import (
    add_first_parts,
    begin_square,
    begin_tiles,
    end_tiles,
    most_parts,
    store_square,
)
from zo_triton.cpu.tiles import DEPTH, new_left, new_right, pack_columns, pack_rows
from zo_triton.cpu.vectors import LANES


def sum_of_products(out: Tensor, pairs: Sequence[tuple[Tensor, Tensor]], scale: float) -> None:
    """``out[n] = scale·Σ left[n] @ right[n]`` over the pairs.

    Args:
        out: Float32 [n, rows, columns], contiguous.
        pairs: One or two, float32 [n, rows, inner] and [n, inner, columns], all with the same ``inner``.
        scale: Multiplies the left factors.
    """
    if out.numel() and rounds_factors():
        if most_parts():
            _in_tiles(out, pairs, scale)
            return
        pairs = [(factor(left), factor(right)) for left, right in pairs]
    for i, (left, right) in enumerate(pairs):
        if i == 0 and scale == 1.0:
            torch.bmm(left, right, out=out)
        else:
            torch.baddbmm(out, left, right, beta=int(i > 0), alpha=scale, out=out)


def _in_tiles(out: Tensor, pairs: Sequence[tuple[Tensor, Tensor]], scale: float) -> None:
    lefts = [_in_lines(left, False) for left, _ in pairs]
    rights = [_in_lines(right, True) for _, right in pairs]
    places = np.array([place for _, place in (*lefts, *rights)], np.int64)
    _tiles_kernel(out.numpy(), places, pairs[0][0].shape[2], scale)


Place = tuple[int, int, int, bool]
"""Of matrices: the first one's address, how far they and their lines are apart, whether lines are columns."""


def _in_lines(tensor: Tensor, either: bool) -> tuple[Tensor, Place]:
    """The tensor, or a copy, whose rows lie in one piece each, or columns if ``either`` will do; and its place."""
    tensor = tensor.resolve_neg()  # an address knows nothing of a sign that is still to be turned
    _, rows, columns = tensor.shape
    batch, row, column = tensor.stride()
    if (pitch := _pitch(rows, columns, row, column)) is not None:
        return tensor, (tensor.data_ptr(), batch, pitch, False)
    if either and (pitch := _pitch(columns, rows, column, row)) is not None:
        return tensor, (tensor.data_ptr(), batch, pitch, True)
    return _in_lines(tensor.contiguous(), either)


def _pitch(lines: int, length: int, between: int, within: int) -> int | None:
    """How many values lines are apart that lie in one piece each, and on no other; None if they do not."""
    if length > 1 and within != 1:
        return None
    return length if lines == 1 else between if between >= length else None


@kernel
def _tiles_kernel(out, places, inner, scale):
    """All matrices; places int64 [2·pairs, 4]: of the left factors and of the right ones."""
    count, (_, rows, columns) = places.shape[0] // 2, out.shape
    blocks, column_blocks = (rows + LANES - 1) // LANES, (columns + LANES - 1) // LANES
    steps = (inner + DEPTH - 1) // DEPTH
    lefts = new_left(count * LANES * blocks, inner, 1).reshape(count, 2 * blocks, steps, 1, 16, DEPTH)
    rights = new_right(inner, count * LANES * column_blocks, 1).reshape(
        count, 2 * column_blocks, steps, 1, 16, 16
    )
    sums, zeros = np.empty((LANES, LANES), np.float32), np.zeros(LANES * column_blocks, np.float32)
    begin_tiles()
    for n in range(out.shape[0]):
        for i in range(count):
            address, batch, line, _ = places[i]
            pack_rows(
                lefts[i],
                matrix_at(uintp(address + 4 * n * batch), rows, line),
                0,
                rows,
                inner,
                float32(scale),
            )
            address, batch, line, turned = places[count + i]
            if n == 0 or batch != 0:
                lines = columns if turned else inner
                right = matrix_at(uintp(address + 4 * n * batch), lines, line)
                pack_columns(rights[i], right, turned != 0, inner, columns)
        for block in range(blocks):
            for column_block in range(column_blocks):
                begin_square(sums, zeros, column_block)
                for i in range(count):
                    add_first_parts(sums, lefts[i], block, rights[i], column_block)
                store_square(out[n], LANES * block, column_block, sums)
    end_tiles()
