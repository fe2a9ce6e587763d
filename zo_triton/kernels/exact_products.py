"""Products of float32 operands on tensor cores that multiply bfloat16 and add in float32.

A float32 number is the sum of three bfloat16 numbers, whose 24 digits are its own. Beside signs, which bfloat16
holds, that makes three products, and each is exact; of two such sums the six products are taken that reach into
the 24 digits.

bfloat16 ends where float32's normal numbers do, at 2⁻¹²⁶, and has seven digits more below, 2⁻¹³³ being the last. So
numbers from 2⁻¹¹⁰ = 8·10⁻³⁴ on keep all digits, and smaller ones are off by 2⁻¹³⁴ at most: 10⁻³⁶ has four decimal
digits. What bfloat16 rounds to infinity, from 3.39·10³⁸ on, has NaN among its parts, and a product that would be
infinite in float32 is NaN: either is no usable difference.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from zo_triton.kernels.launch import blocks, launch
from zo_triton.kernels.numeric import bound, dot, narrow, widen

PARTS = 3
CONFIG = {"ROWS": 16, "COLS": 64, "num_warps": 4}


@triton.jit
def in_parts(x):
    """Three bfloat16 tiles, the largest first, whose sum is the float32 tile."""
    high = narrow(x, tl.bfloat16)
    rest = x - widen(high)
    middle = narrow(rest, tl.bfloat16)
    return high, middle, narrow(rest - widen(middle), tl.bfloat16)


@triton.jit
def add_product_with_memory(left, ptr, part_stride, offsets, total):
    """total + left·right in float32; left: a tile of signs, or the parts of a tile; right: in parts in memory."""
    if isinstance(left, tl.tensor):
        for part in tl.static_range(2, -1, -1):
            total = dot(left, tl.load(ptr + part * part_stride + offsets), total, "ieee")
        return total
    else:
        high, middle, low = left
        total = dot(high, tl.load(ptr + 2 * part_stride + offsets), total, "ieee")
        right = tl.load(ptr + part_stride + offsets)
        total = dot(high, right, dot(middle, right, total, "ieee"), "ieee")
        right = tl.load(ptr + offsets)
        return dot(high, right, dot(middle, right, dot(low, right, total, "ieee"), "ieee"), "ieee")


@triton.jit
def add_product(left, right, total):
    """total + left·right in float32; left, right: a tile that bfloat16 holds, of signs say, or the parts of one."""
    if isinstance(left, tl.tensor):
        high, middle, low = right
        return dot(left, high, dot(left, middle, dot(left, low, total, "ieee"), "ieee"), "ieee")
    elif isinstance(right, tl.tensor):
        high, middle, low = left
        return dot(high, right, dot(middle, right, dot(low, right, total, "ieee"), "ieee"), "ieee")
    else:
        high, middle, low = right
        left_high, left_middle, left_low = left
        total = dot(left_middle, middle, dot(left_low, high, total, "ieee"), "ieee")
        total = dot(left_high, low, dot(left_middle, high, total, "ieee"), "ieee")
        return dot(left_high, high, dot(left_high, middle, total, "ieee"), "ieee")


@triton.jit
def _taken_apart(tile):
    """The parts of a float32 tile; a bfloat16 tile is one."""
    if tile.dtype == tl.bfloat16:
        return tile
    else:
        return in_parts(tile)


@triton.jit
def add_float32_product(left, right, total, PRECISION: tl.constexpr):
    """total + left·right in a way of :mod:`zo_triton.kernels.precision`; in ``"bf16x6"`` signs may be bfloat16."""
    if PRECISION == "bf16x6":
        return add_product(_taken_apart(left), _taken_apart(right), total)
    else:
        return dot(left, right, total, PRECISION)


@triton.jit
def add_product_of_memory(ptr, part_stride, offsets, right, total):
    """total + left·right in float32; left: in parts in memory, one of them here at a time; right: the parts."""
    high, middle, low = right
    total = dot(tl.load(ptr + 2 * part_stride + offsets), high, total, "ieee")
    left = tl.load(ptr + part_stride + offsets)
    total = dot(left, high, dot(left, middle, total, "ieee"), "ieee")
    left = tl.load(ptr + offsets)
    return dot(left, high, dot(left, middle, dot(left, low, total, "ieee"), "ieee"), "ieee")


@triton.jit
def _take_apart(
        part_ptr, source_ptr, HEIGHT: tl.constexpr, WIDTH: tl.constexpr, PADDED_HEIGHT: tl.constexpr,
        PADDED_WIDTH: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    """Tiles p, p + P, … of one matrix, which is a row of tiles to program p of P."""
    column_tiles: tl.constexpr = (PADDED_WIDTH + COLS - 1) // COLS
    tiles: tl.constexpr = (PADDED_HEIGHT + ROWS - 1) // ROWS * column_tiles
    for tile in range(bound(tl.program_id(0)), tiles, bound(tl.num_programs(0))):
        row = (tile // column_tiles * ROWS + tl.arange(0, ROWS)).to(tl.int64)[:, None]
        column = (tile % column_tiles * COLS + tl.arange(0, COLS))[None, :]
        there = (row < HEIGHT) & (column < WIDTH)
        parts = in_parts(tl.load(source_ptr + row * WIDTH + column, mask=there, other=0.0))
        inside = (row < PADDED_HEIGHT) & (column < PADDED_WIDTH)
        for part in tl.static_range(3):
            place = part_ptr + part * PADDED_HEIGHT * PADDED_WIDTH + row * PADDED_WIDTH + column
            tl.store(place, parts[part], mask=inside)


@triton.jit
def _parts_kernel(
        part_ptrs, source_ptrs, HEIGHTS: tl.constexpr, WIDTHS: tl.constexpr, PADDED_HEIGHTS: tl.constexpr,
        PADDED_WIDTHS: tl.constexpr, COUNT: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    """Tuples with one entry a matrix: parts [3, padded height, padded width] bfloat16, source [height, width]."""
    for matrix in tl.static_range(COUNT):
        _take_apart(
            part_ptrs[matrix], source_ptrs[matrix], HEIGHTS[matrix], WIDTHS[matrix], PADDED_HEIGHTS[matrix],
            PADDED_WIDTHS[matrix], ROWS, COLS)  # fmt: skip


def write_parts(sources: list[Tensor], shapes: list[tuple[int, int]]) -> list[Tensor]:
    """The parts of matrices, padded with zeros, in one launch.

    Args:
        sources: [height, width] each, contiguous float32.
        shapes: Padded height and width of each.

    Returns:
        [3, padded height, padded width] bfloat16 each.
    """
    parts = [
        torch.empty(PARTS, *shape, dtype=torch.bfloat16, device=source.device)
        for source, shape in zip(sources, shapes, strict=True)
    ]
    programs = max(blocks(height, CONFIG["ROWS"]) * blocks(width, CONFIG["COLS"]) for height, width in shapes)
    launch(
        _parts_kernel,
        programs,
        sources[0],
        part_ptrs=tuple(parts),
        source_ptrs=tuple(sources),
        HEIGHTS=tuple(source.shape[0] for source in sources),
        WIDTHS=tuple(source.shape[1] for source in sources),
        PADDED_HEIGHTS=tuple(height for height, _ in shapes),
        PADDED_WIDTHS=tuple(width for _, width in shapes),
        COUNT=len(sources),
        **CONFIG,
    )
    return parts
