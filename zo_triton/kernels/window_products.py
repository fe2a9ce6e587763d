"""The two products of a perturbed convolution, δ*W and (a+δ)*U, as an implicit GEMM over a tile of positions.

Rows are output positions, columns output channels, and the sum runs over (channel, kernel row, kernel column) in
the field's column order, so that a word of 32 signs is 32 consecutive terms. Nothing is unfolded: a tile's
addresses are the sum of a part of its row (where the window starts) and a part of its term (where in the window).
With one input channel a group there is nothing to sum over but the window, and no tensor core is used.
"""

from __future__ import annotations

import triton
import triton.language as tl

from zo_triton.kernels.exact_products import add_float32_product
from zo_triton.kernels.field import as_word, direction_tile, draw_tile, expand_signs
from zo_triton.kernels.folding import operand
from zo_triton.kernels.linear_products import load_tile
from zo_triton.kernels.numeric import bound, narrow


@triton.jit
def _change_of_weight(
        staged_ptr, staged_rows, row_block, column, columns, words, counter, DISTRIBUTION: tl.constexpr,
        ROUNDS: tl.constexpr, RANK: tl.constexpr, RANK_BLOCK: tl.constexpr, STAGED: tl.constexpr,
        ROWS: tl.constexpr, COLS: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """[ROWS, COLS] of U in DTYPE. Of low rank it is the product of its factors' tiles, rounded to DTYPE."""
    whole_word, left_word, right_word = words
    if STAGED:
        inside = column + 32 * tl.arange(0, COLS // 32) < columns
        offsets = staged_rows[:, None] + (column // 32 + tl.arange(0, COLS // 32))[None, :]
        packed = tl.load(staged_ptr + offsets, mask=inside[None, :], other=0)
        return expand_signs(packed.to(tl.uint32, bitcast=True), ROWS, COLS, DTYPE)
    elif RANK == 0:
        row_blocks = row_block + tl.arange(0, ROWS // 4)
        return draw_tile(
            row_blocks, column, columns, as_word(whole_word), counter, DISTRIBUTION, ROUNDS, ROWS, COLS, DTYPE
        )
    else:
        z = direction_tile(
            row_block, column, columns, whole_word, left_word, right_word, counter, DISTRIBUTION, ROUNDS,
            RANK, RANK_BLOCK, ROWS, COLS, DTYPE)  # fmt: skip
        return narrow(z, DTYPE)


@triton.jit
def inside_image(top, left, row, column, height, width):
    """Which of the input's places (top + row, left + column) exist."""
    y, x = (top + row).to(tl.uint32), (left + column).to(tl.uint32)
    return (y < tl.cast(height, tl.uint32)) & (x < tl.cast(width, tl.uint32))


@triton.jit
def places_outside(top, left, dilation, size, HEIGHT: tl.constexpr, WIDTH: tl.constexpr):
    """Rows and columns of each window that lie outside the image: bits r and 16 + c of a word, up to 16 × 16.

    Known before a loop over the taps, they leave it one test a position instead of two sums and two comparisons.
    """
    outside = tl.zeros_like(top).to(tl.uint32)
    if HEIGHT <= 16 and WIDTH <= 16:
        for row in tl.static_range(HEIGHT):
            beyond = (top + row * dilation[0]).to(tl.uint32) >= tl.cast(size[0], tl.uint32)
            outside |= beyond.to(tl.uint32) << row
        for column in tl.static_range(WIDTH):
            beyond = (left + column * dilation[1]).to(tl.uint32) >= tl.cast(size[1], tl.uint32)
            outside |= beyond.to(tl.uint32) << (16 + column)
    return outside


@triton.jit
def meets(outside, top, left, row, column, dilation, size, HEIGHT: tl.constexpr, WIDTH: tl.constexpr):
    """Whose tap (row, column) lies inside the image; ``outside`` comes from :func:`places_outside`."""
    if HEIGHT <= 16 and WIDTH <= 16:
        place = (tl.full((), 1, tl.uint32) << row) | (tl.full((), 1 << 16, tl.uint32) << column)
        return (outside & place) == 0
    else:
        return inside_image(top, left, row * dilation[0], column * dilation[1], size[0], size[1])


@triton.jit
def window_products(
        base_ptr, difference0_ptr, difference1_ptr, weight_ptr, staged_ptr, rows, corner, weight_rows, staged_rows,
        base_strides, difference_strides, size, dilation, row_block, columns, epsilon0, epsilon1, words, counter,
        SIDES: tl.constexpr, HAS_DIFFERENCE: tl.constexpr, PERTURB_WEIGHT: tl.constexpr,
        DISTRIBUTION: tl.constexpr, ROUNDS: tl.constexpr, RANK: tl.constexpr, RANK_BLOCK: tl.constexpr,
        STAGED: tl.constexpr, FOLDED: tl.constexpr, DTYPE: tl.constexpr, PRECISION: tl.constexpr,
        KERNEL_HEIGHT: tl.constexpr, KERNEL_WIDTH: tl.constexpr,
        PADDED: tl.constexpr, RAGGED: tl.constexpr, OFFSETS: tl.constexpr,
        BLOCK_N: tl.constexpr, BLOCK_F: tl.constexpr, BLOCK_I: tl.constexpr,
):  # fmt: skip
    """Each side's δ*W + sε·(a+δ)*U in float32, [BLOCK_N, BLOCK_F]; a*U where δ is absent.

    rows: offsets of each position's window in base and difference, [BLOCK_N] each; corner: row and column of the
    input where it starts, negative in the padding; strides (channel, row, column); size (height, width) of the
    input; weight_rows and staged_rows [BLOCK_F]: where a channel's row starts. PADDED: windows reach beyond the
    input. RAGGED: the columns of the weight are no multiple of BLOCK_I.
    """
    SIGNS: tl.constexpr = RANK == 0 and DISTRIBUTION == "rademacher"
    U_DTYPE: tl.constexpr = tl.bfloat16 if PRECISION == "bf16x6" and SIGNS else DTYPE
    change0 = tl.zeros((BLOCK_N, BLOCK_F), tl.float32)
    change1 = change0
    top, left = corner[0][:, None], corner[1][:, None]
    for i in range(0, bound(columns), BLOCK_I):
        term = (i + tl.arange(0, BLOCK_I)).to(OFFSETS)
        channel = term // (KERNEL_HEIGHT * KERNEL_WIDTH)
        row = term // KERNEL_WIDTH % KERNEL_HEIGHT * dilation[0]
        column = term % KERNEL_WIDTH * dilation[1]
        inside = (term < columns)[None, :]
        mask = inside
        if PADDED:
            mask = inside & inside_image(top, left, row[None, :], column[None, :], size[0], size[1])
        if PERTURB_WEIGHT:
            terms = channel * base_strides[0] + row * base_strides[1] + column * base_strides[2]
            base = load_tile(base_ptr, rows[0][:, None] + terms[None, :], mask, PADDED or RAGGED)
            u = _change_of_weight(
                staged_ptr, staged_rows, row_block, i, columns, words, counter, DISTRIBUTION, ROUNDS,
                RANK, RANK_BLOCK, STAGED, BLOCK_F, BLOCK_I, U_DTYPE)  # fmt: skip
            u = tl.trans(u)
        if HAS_DIFFERENCE:
            terms = (
                channel * difference_strides[0] + row * difference_strides[1] + column * difference_strides[2]
            )
            offsets = rows[1][:, None] + terms[None, :]
            weight = load_tile(
                weight_ptr, weight_rows[None, :] + term[:, None], (term < columns)[:, None], RAGGED
            )
            weight = narrow(weight, DTYPE)
            difference0 = load_tile(difference0_ptr, offsets, mask, PADDED or RAGGED)
            change0 = add_float32_product(difference0, weight, change0, PRECISION)
            if PERTURB_WEIGHT:
                change0 = add_float32_product(
                    operand(base, difference0, epsilon0, FOLDED, DTYPE), u, change0, PRECISION
                )
            if SIDES == 2:
                difference1 = load_tile(difference1_ptr, offsets, mask, PADDED or RAGGED)
                change1 = add_float32_product(difference1, weight, change1, PRECISION)
                if PERTURB_WEIGHT:
                    change1 = add_float32_product(
                        operand(base, difference1, epsilon1, FOLDED, DTYPE), u, change1, PRECISION
                    )
        else:
            change0 = add_float32_product(narrow(base, DTYPE), u, change0, PRECISION)
    if not HAS_DIFFERENCE:
        change1 = change0
    return change0, change1


@triton.jit
def depthwise_products(
        base_ptr, difference0_ptr, difference1_ptr, weight_ptr, staged_ptr,
        rows, corner, channels, weight_rows, staged_rows,
        base_strides, difference_strides, size, dilation, row_block, columns, epsilon0, epsilon1, words, counter,
        SIDES: tl.constexpr, HAS_DIFFERENCE: tl.constexpr, PERTURB_WEIGHT: tl.constexpr,
        DISTRIBUTION: tl.constexpr, ROUNDS: tl.constexpr, RANK: tl.constexpr, RANK_BLOCK: tl.constexpr,
        STAGED: tl.constexpr, DTYPE: tl.constexpr,
        KERNEL_WIDTH: tl.constexpr, PADDED: tl.constexpr, OFFSETS: tl.constexpr,
        BLOCK_N: tl.constexpr, BLOCK_F: tl.constexpr, BLOCK_I: tl.constexpr,
):  # fmt: skip
    """As :func:`window_products` where each output channel reads one input channel, channels [BLOCK_F].

    One place of the window at a time, in float32: its column of U is taken out of a tile of BLOCK_I columns.
    """
    change0 = tl.zeros((BLOCK_N, BLOCK_F), tl.float32)
    change1 = change0
    base_offsets = rows[0][:, None] + (channels * base_strides[0])[None, :]
    difference_offsets = rows[1][:, None] + (channels * difference_strides[0])[None, :]
    for i in range(0, bound(columns), BLOCK_I):
        if PERTURB_WEIGHT:
            u = _change_of_weight(
                staged_ptr, staged_rows, row_block, i, columns, words, counter, DISTRIBUTION, ROUNDS,
                RANK, RANK_BLOCK, STAGED, BLOCK_F, BLOCK_I, DTYPE)  # fmt: skip
        for term in range(i, bound(tl.minimum(i + BLOCK_I, columns))):
            row = tl.cast(term // KERNEL_WIDTH, OFFSETS) * dilation[0]
            column = tl.cast(term % KERNEL_WIDTH, OFFSETS) * dilation[1]
            mask = inside_image(corner[0], corner[1], row, column, size[0], size[1])[:, None]
            if PERTURB_WEIGHT:
                here = row * base_strides[1] + column * base_strides[2]
                base = load_tile(base_ptr, base_offsets + here, mask, PADDED).to(tl.float32)
                own = tl.arange(0, BLOCK_I)[None, :] == term - i
                factor = tl.sum(tl.where(own, u.to(tl.float32), 0.0), axis=1)[None, :]
            if HAS_DIFFERENCE:
                here = row * difference_strides[1] + column * difference_strides[2]
                weight = tl.load(weight_ptr + weight_rows + term).to(tl.float32)[None, :]
                difference0 = load_tile(difference0_ptr, difference_offsets + here, mask, PADDED).to(
                    tl.float32
                )
                change0 += difference0 * weight
                if PERTURB_WEIGHT:
                    change0 += epsilon0 * (base + difference0) * factor
                if SIDES == 2:
                    difference1 = load_tile(difference1_ptr, difference_offsets + here, mask, PADDED)
                    difference1 = difference1.to(tl.float32)
                    change1 += difference1 * weight
                    if PERTURB_WEIGHT:
                        change1 += epsilon1 * (base + difference1) * factor
            else:
                change0 += base * factor
    if not HAS_DIFFERENCE:
        change1 = change0
    return change0, change1
