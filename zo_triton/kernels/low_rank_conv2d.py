"""The first of a low-rank convolution's two thin products: (a+δ)*B/√r, a convolution with r channels out.

A direction's U = ABᵀ/√r has the window's columns as B's rows. So (a+δ)*U is (a+δ)*B followed, position by position,
by A, as a linear layer's (a+δ)Uᵀ is (see :mod:`zo_triton.kernels.low_rank`): a launch of its own takes it once a
direction and group, for all of the group's channels out, and the layer adds sε·A[(a+δ)*B]/√r to its sums of δ*W.

The sum runs tap by tap over images with their channels last (:mod:`zo_triton.kernels.tap_products`). The rows of B
that a tap meets lie a window apart, so that each is drawn by a call of its own: r numbers of many channels are few.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import triton
import triton.language as tl
from torch import Tensor

from zo_triton.directions import Directions
from zo_triton.kernels.arguments import field_constants, strides
from zo_triton.kernels.exact_products import add_float32_product
from zo_triton.kernels.field import (
    UNSPECIALISED,
    as_word,
    counter_arguments,
    counter_of,
    factor_rows,
    padded_rank,
)
from zo_triton.kernels.launch import blocks, chip_of, compute_dtype, launch
from zo_triton.kernels.linear_products import load_tile
from zo_triton.kernels.numeric import bound
from zo_triton.kernels.window_arguments import channels_last, divisor_of, offset_dtype, window_of
from zo_triton.kernels.window_products import meets, places_outside

CONFIGS = {
    # Positions × channels in of a program's tiles, warps, stages; none timed yet.
    torch.bfloat16: {"BLOCK_N": 128, "BLOCK_I": 32, "num_warps": 4, "num_stages": 3},
    torch.float32: {"BLOCK_N": 64, "BLOCK_I": 32, "num_warps": 4, "num_stages": 2},
}
FEWER_REGISTERS = {"BLOCK_N": 64, "BLOCK_I": 32, "num_warps": 4, "num_stages": 1}
"""Of float32 on sm_100, where registers run out with two stages."""


@triton.jit(do_not_specialize=UNSPECIALISED)
def _window_projection_kernel(
        out_ptr, base_ptr, difference_ptr, positions, out_height, out_width, height, width, channels,
        position_tiles, rank_tiles, groups,
        stride_tg, stride_tp, stride_an, stride_ay, stride_ax, stride_dp, stride_dn, stride_dy, stride_dx,
        step_y, step_x, padding_y, padding_x, dilation_y, dilation_x, key0, key1, step, first, right_word,
        SIDES: tl.constexpr, HAS_DIFFERENCE: tl.constexpr, DISTRIBUTION: tl.constexpr, ROUNDS: tl.constexpr,
        RANK: tl.constexpr, RANK_BLOCK: tl.constexpr, DTYPE: tl.constexpr, PRECISION: tl.constexpr,
        KERNEL_HEIGHT: tl.constexpr, KERNEL_WIDTH: tl.constexpr, PADDED: tl.constexpr, RAGGED: tl.constexpr,
        DIVISOR: tl.constexpr, OFFSETS: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_I: tl.constexpr,
):  # fmt: skip
    """(a+δ)*B/√RANK, or without a difference a*B/√RANK, which serves both sides.

    Program = ((k·groups + group)·rank_tiles + rank tile)·position_tiles + position tile. base [N, height, width,
    groups·channels], difference [P, N, height, width, groups·channels], both in DTYPE, a pixel's channels side by
    side; out [groups, P or K, RANK, positions] float32. Sizes and strides are multiples of DIVISOR. Counters:
    (block, right_word, first + k, step).
    """
    TAPS: tl.constexpr = KERNEL_HEIGHT * KERNEL_WIDTH
    pid = tl.program_id(0)
    position_tile = pid % position_tiles
    rank_start = pid // position_tiles % rank_tiles * RANK_BLOCK
    group = pid // position_tiles // rank_tiles % groups
    k = pid // position_tiles // rank_tiles // groups
    counter = counter_of(first + k, step, key0, key1)
    evaluations: tl.constexpr = SIDES if HAS_DIFFERENCE else 1
    p0 = tl.cast(k, tl.int64) * evaluations
    p1 = p0 + evaluations - 1

    # Triton notices sizes and strides that 16 divides; 8 channels are a vector too.
    channels = channels // DIVISOR * DIVISOR
    stride_an, stride_ay = stride_an // DIVISOR * DIVISOR, stride_ay // DIVISOR * DIVISOR
    stride_ax, stride_dp = stride_ax // DIVISOR * DIVISOR, stride_dp // DIVISOR * DIVISOR
    stride_dn, stride_dy = stride_dn // DIVISOR * DIVISOR, stride_dy // DIVISOR * DIVISOR
    stride_dx = stride_dx // DIVISOR * DIVISOR

    # Rows beyond the edge read the last one instead: never stored, and no load needs a mask for them.
    m0 = tl.cast(position_tile, OFFSETS) * BLOCK_N
    position = tl.minimum(m0 + tl.arange(0, BLOCK_N), positions - 1)
    area = tl.cast(out_height, OFFSETS) * out_width
    n, y, x = position // area, position % area // out_width, position % out_width
    top, left = y * step_y - padding_y, x * step_x - padding_x
    dilation, size = (dilation_y, dilation_x), (height, width)
    outside = places_outside(top, left, dilation, size, KERNEL_HEIGHT, KERNEL_WIDTH)
    inputs = tl.arange(0, BLOCK_I)
    base_offsets = (n * stride_an + top * stride_ay + left * stride_ax)[:, None] + inputs[None, :]
    difference_offsets = (n * stride_dn + top * stride_dy + left * stride_dx)[:, None] + inputs[None, :]
    skipped = tl.cast(group, tl.int64) * channels
    base_ptr += skipped
    difference0_ptr = difference_ptr + p0 * stride_dp + skipped
    difference1_ptr = difference_ptr + p1 * stride_dp + skipped

    FACTOR: tl.constexpr = tl.bfloat16 if PRECISION == "bf16x6" and DISTRIBUTION == "rademacher" else DTYPE
    tap, start = tl.full((), 0, tl.int32), tl.full((), 0, tl.int32)
    of_base = tl.zeros((BLOCK_N, RANK_BLOCK), tl.float32)
    change0, change1 = of_base, of_base
    for _ in range(0, bound(TAPS * ((channels + BLOCK_I - 1) // BLOCK_I))):
        row, column = tap // KERNEL_WIDTH, tap % KERNEL_WIDTH
        there = start + inputs < channels
        mask = there[None, :]
        if PADDED:
            met = meets(outside, top, left, row, column, dilation, size, KERNEL_HEIGHT, KERNEL_WIDTH)
            mask = met[:, None]
            if RAGGED:
                mask = mask & there[None, :]
        row, column = row * dilation_y, column * dilation_x
        right = factor_rows(
            (start + inputs) * TAPS + tap, rank_start, as_word(right_word), counter, DISTRIBUTION, ROUNDS, RANK,
            BLOCK_I, RANK_BLOCK, FACTOR)  # fmt: skip
        place = tl.cast(row, tl.int64) * stride_ay + tl.cast(column, tl.int64) * stride_ax + start
        base = load_tile(base_ptr + place, base_offsets, mask, PADDED or RAGGED)
        of_base = add_float32_product(base, right, of_base, PRECISION)
        if HAS_DIFFERENCE:
            place = tl.cast(row, tl.int64) * stride_dy + tl.cast(column, tl.int64) * stride_dx + start
            difference0 = load_tile(difference0_ptr + place, difference_offsets, mask, PADDED or RAGGED)
            change0 = add_float32_product(difference0, right, change0, PRECISION)
            if SIDES == 2:
                difference1 = load_tile(difference1_ptr + place, difference_offsets, mask, PADDED or RAGGED)
                change1 = add_float32_product(difference1, right, change1, PRECISION)
        start += BLOCK_I
        tap += start >= channels
        start = tl.where(start >= channels, 0, start)

    SHARE: tl.constexpr = 1.0 / RANK**0.5
    rank = rank_start + tl.arange(0, RANK_BLOCK)
    place = m0 + tl.arange(0, BLOCK_N)
    offsets = rank.to(tl.int64)[None, :] * positions + place[:, None]
    mask = (place < positions)[:, None] & (rank < RANK)[None, :]
    out_ptr += tl.cast(group, tl.int64) * stride_tg
    tl.store(out_ptr + p0 * stride_tp + offsets, (of_base + change0) * SHARE, mask=mask)
    if evaluations == 2:
        tl.store(out_ptr + p1 * stride_tp + offsets, (of_base + change1) * SHARE, mask=mask)


def project_windows(
    image: Tensor,
    base: Tensor,
    difference: Tensor | None,
    weight: Tensor,
    directions: Directions,
    right_word: object,
    *,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    sides: int,
    precision: str,
    config: Mapping[str, int] | None = None,
) -> Tensor:
    """(a+δ)*B/√r of every evaluation and group; without a difference a*B/√r of every direction and group.

    Args:
        image: What the window leaves of ``base``, [N, O, H', W'] in the compute dtype.
        base: [N, C, H, W].
        difference: [P, N, C, H, W] in the compute dtype, a pixel's channels side by side, or None.
        weight: [O, C / groups, kernel height, kernel width].
        directions: Names the K directions, of low rank.
        right_word: B's counter word, as a kernel argument.
        stride: Of the window.
        padding: Zeros on each side.
        dilation: Of the kernel.
        groups: Into which the channels fall.
        sides: Of each direction.
        precision: How float32 operands are multiplied, as :mod:`zo_triton.kernels.precision` names it.
        config: Tile sizes and launch options in place of those of this module.

    Returns:
        float32, [groups, P or K, r, positions].
    """
    rank, channels = directions.rank or 0, weight.shape[1]
    small = chip_of(image) == "sm_100" and image.dtype == torch.float32
    base = channels_last(base.to(image.dtype))
    config = config or (FEWER_REGISTERS if small else CONFIGS[image.dtype])
    moved = base[None] if difference is None else difference
    positions = image.shape[0] * image.shape[2] * image.shape[3]
    evaluations = directions.num * (1 if difference is None else sides)
    out = torch.empty(groups, evaluations, rank, positions, dtype=torch.float32, device=base.device)
    rank_block = padded_rank(rank, signs=False)
    position_tiles, rank_tiles = blocks(positions, config["BLOCK_N"]), blocks(rank, rank_block)
    window = window_of(image, base, weight, stride, padding, dilation)
    del window["out_channels"], window["group_inputs"]
    launch(
        _window_projection_kernel,
        directions.num * groups * rank_tiles * position_tiles,
        out,
        out_ptr=out,
        base_ptr=base,
        difference_ptr=moved,
        positions=positions,
        channels=channels,
        position_tiles=position_tiles,
        rank_tiles=rank_tiles,
        groups=groups,
        stride_tg=out.stride(0),
        stride_tp=out.stride(1),
        **window,
        **strides("a", "nyx", base[:, 0]),
        **strides("d", "pnyx", moved[:, :, 0]),
        **counter_arguments(directions),
        right_word=right_word,
        SIDES=sides,
        HAS_DIFFERENCE=difference is not None,
        **{**field_constants(directions, rank), "RANK_BLOCK": rank_block},
        DTYPE=compute_dtype(image.dtype),
        PRECISION=precision,
        RAGGED=channels % config["BLOCK_I"] != 0,
        DIVISOR=divisor_of(channels, base, moved),
        OFFSETS=offset_dtype(base, moved[0]),
        **config,
    )
    return out
