"""The products of a perturbed convolution summed tap by tap, a tap being one place of the window.

To one tap, a convolution is a linear layer: its inputs are the channels of the pixels that the tap meets, which lie
side by side in images with their channels last. So a tile [channels in, positions] is loaded in vectors, has one
mask a position and none an element, and goes from shared memory into the tensor cores; W+sεU and U are the left
factors, made in registers (see :mod:`zo_triton.kernels.linear_products`).

The sum runs over (kernel row, kernel column, channel). W is laid out so beforehand, and so are staged signs, each
tap's channels filled up to whole words; real values of U are drawn for columns that lie a window apart.
"""

from __future__ import annotations

import triton
import triton.language as tl

from zo_triton.kernels.exact_products import add_float32_product
from zo_triton.kernels.linear_products import add_side, load_tile, unpacked
from zo_triton.kernels.numeric import bound, narrow, settled
from zo_triton.kernels.operand_tiles import real_tile_of_u
from zo_triton.kernels.window_products import meets, places_outside


@triton.jit
def tap_products(
        base_ptr, difference0_ptr, difference1_ptr, weight_ptr, staged_ptr, rows, corner, weight_rows, staged_rows,
        base_strides, difference_strides, size, dilation, row_block, channels, scale0, scale1, share,
        whole_word, counter,
        SIDES: tl.constexpr, HAS_DIFFERENCE: tl.constexpr, PERTURB_WEIGHT: tl.constexpr,
        DISTRIBUTION: tl.constexpr, ROUNDS: tl.constexpr, STAGED: tl.constexpr, FOLDED: tl.constexpr,
        DTYPE: tl.constexpr, PRECISION: tl.constexpr, KERNEL_HEIGHT: tl.constexpr, KERNEL_WIDTH: tl.constexpr,
        PADDED: tl.constexpr, RAGGED: tl.constexpr, SETTLED: tl.constexpr, OFFSETS: tl.constexpr,
        BLOCK_N: tl.constexpr, BLOCK_F: tl.constexpr, BLOCK_I: tl.constexpr,
):  # fmt: skip
    """Each side's (share·W + scale·U)*δ + scale·U*a in float32, [BLOCK_F, BLOCK_N]; U*a where δ is absent.

    rows: offsets of each position's window in base and difference, [BLOCK_N] each, whose channels lie side by side;
    corner: row and column of the input where it starts, negative in the padding; strides (row, column); size
    (height, width) of the input; weight_rows, staged_rows [BLOCK_F]: where an output channel's row starts, of
    [taps, channels] weights and [taps, ceil(channels/32)] words. PADDED: windows reach beyond the input. RAGGED:
    ``channels`` of a group are no multiple of BLOCK_I. SETTLED: an iteration ends when its products are done (see
    :func:`zo_triton.kernels.numeric.settled`).
    """
    TAPS: tl.constexpr = KERNEL_HEIGHT * KERNEL_WIDTH
    SIGN_DTYPE: tl.constexpr = tl.bfloat16 if PRECISION == "bf16x6" else DTYPE
    # Signs of 16 bits are unpacked once they have a scale, which then costs nothing.
    PACKED: tl.constexpr = HAS_DIFFERENCE and DTYPE.primitive_bitwidth == 16
    inputs = tl.arange(0, BLOCK_I)
    local_words = tl.arange(0, BLOCK_I // 32)
    base_offsets = inputs.to(OFFSETS)[:, None] + rows[0][None, :]
    difference_offsets = inputs.to(OFFSETS)[:, None] + rows[1][None, :]
    weight_offsets = weight_rows[:, None] + inputs.to(OFFSETS)[None, :]
    staged_offsets = staged_rows[:, None] + local_words[None, :]
    words = (channels + 31) // 32
    top, left = corner
    outside = places_outside(top, left, dilation, size, KERNEL_HEIGHT, KERNEL_WIDTH)
    tap, start = tl.full((), 0, tl.int32), tl.full((), 0, tl.int32)
    change0 = tl.zeros((BLOCK_F, BLOCK_N), tl.float32)
    change1 = change0
    for _ in range(0, bound(tl.maximum(TAPS * ((channels + BLOCK_I - 1) // BLOCK_I), 1))):
        row, column = tap // KERNEL_WIDTH, tap % KERNEL_WIDTH
        there = start + inputs < channels
        mask = there[:, None]
        if PADDED:
            met = meets(outside, top, left, row, column, dilation, size, KERNEL_HEIGHT, KERNEL_WIDTH)
            mask = met[None, :]
            if RAGGED:
                mask = mask & there[:, None]
        row, column = row * dilation[0], column * dilation[1]
        if PERTURB_WEIGHT:
            place = (
                tl.cast(row, tl.int64) * base_strides[0] + tl.cast(column, tl.int64) * base_strides[1] + start
            )
            base = narrow(load_tile(base_ptr + place, base_offsets, mask, PADDED or RAGGED), DTYPE)
            if STAGED:
                packed = load_tile(
                    staged_ptr + (tap * words + start // 32), staged_offsets,
                    (start // 32 + local_words < words)[None, :], RAGGED)  # fmt: skip
                u = packed.to(tl.uint32, bitcast=True)
                if not PACKED:
                    u = unpacked(u, 1.0, SIGN_DTYPE)
            else:
                u = real_tile_of_u(
                    row_block, start * TAPS + tap, channels * TAPS, weight_ptr, channels, whole_word, counter,
                    DISTRIBUTION, ROUNDS, TAPS, BLOCK_F, BLOCK_I, DTYPE)  # fmt: skip
        if HAS_DIFFERENCE:
            weight = load_tile(
                weight_ptr + tl.cast(tap, OFFSETS) * channels + start, weight_offsets, there[None, :], RAGGED
            )
            weight = narrow(weight, DTYPE)
            place = tl.cast(row, tl.int64) * difference_strides[0]
            place += tl.cast(column, tl.int64) * difference_strides[1] + start
            difference0 = load_tile(difference0_ptr + place, difference_offsets, mask, PADDED or RAGGED)
            if PERTURB_WEIGHT:
                change0 = add_side(
                    change0, weight, u, base, difference0, scale0, share, FOLDED, DTYPE, PRECISION
                )
            else:
                change0 = add_float32_product(weight, difference0, change0, PRECISION)
            if SIDES == 2:
                difference1 = load_tile(difference1_ptr + place, difference_offsets, mask, PADDED or RAGGED)
                if PERTURB_WEIGHT:
                    change1 = add_side(
                        change1, weight, u, base, difference1, scale1, share, FOLDED, DTYPE, PRECISION
                    )
                else:
                    change1 = add_float32_product(weight, difference1, change1, PRECISION)
        else:
            change0 = add_float32_product(u, base, change0, PRECISION)
        start += BLOCK_I
        tap += start >= channels
        start = tl.where(start >= channels, 0, start)
        if SETTLED:
            change0, change1 = settled(change0), settled(change1)
    if not HAS_DIFFERENCE:
        change1 = change0
    return change0, change1
