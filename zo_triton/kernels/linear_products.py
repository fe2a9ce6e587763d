"""The two products of a perturbed linear layer, δWᵀ and (a+δ)Uᵀ, accumulated over the in-features.

One tile of U serves both sides of a direction. Where the input carries no difference only aUᵀ is left, which
is accumulated once and unscaled: the sides differ by sε alone.
"""

from __future__ import annotations

import triton
import triton.language as tl

from zo_triton.kernels.field import factor_tile, real_tile
from zo_triton.kernels.folding import moved, operand
from zo_triton.kernels.numeric import bound, dot, narrow
from zo_triton.kernels.operand_tiles import row_blocks_like, sign_words_by_row, spread_signs


@triton.jit
def _low_rank_product(low, left, accumulator, PRECISION: tl.constexpr):
    """Adds low·left to the accumulator; beside a bfloat16 factor, low goes in as two bfloat16 parts."""
    if left.dtype == tl.bfloat16:
        high = narrow(low, tl.bfloat16)
        rest = narrow(low - high.to(tl.float32), tl.bfloat16)
        return dot(rest, left, dot(high, left, accumulator, PRECISION), PRECISION)
    else:
        return dot(low, left, accumulator, PRECISION)


@triton.jit
def load_tile(ptr, offsets, mask, MASKED: tl.constexpr):
    """A tile at a scalar pointer; 0 outside the mask, if there is one."""
    if MASKED:
        return tl.load(ptr + offsets, mask=mask, other=0.0)
    else:
        return tl.load(ptr + offsets)


@triton.jit
def _tile_of_u(
        row_block, col, cols, ptr, word, counter, DISTRIBUTION: tl.constexpr, ROUNDS: tl.constexpr,
        ROWS: tl.constexpr, COLS: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """[ROWS, COLS] of the field's matrix of ``cols`` columns, from row 4·row_block; nothing is read at ``ptr``."""
    if DISTRIBUTION == "rademacher":
        word_offsets = tl.zeros((ROWS, COLS // 32), tl.int32)
        row_blocks = row_blocks_like(row_block, ptr, word_offsets, cols, 4)
        words = sign_words_by_row(
            row_blocks, col // 32, (cols + 31) // 32, word, counter, ROUNDS, ROWS, COLS // 32
        )
        return spread_signs(words, ROWS, COLS, DTYPE)
    else:
        offsets = tl.zeros((ROWS // 4, 1), tl.int32) + tl.arange(0, COLS)[None, :]
        row_blocks = row_blocks_like(row_block, ptr, offsets, cols, 1)
        return real_tile(row_blocks, col, cols, word, counter, DISTRIBUTION, ROUNDS, ROWS, COLS, DTYPE)


@triton.jit
def full_rank_products(
        base_ptr, difference0_ptr, difference1_ptr, weight_ptr, staged_ptr,
        base_offsets, difference_offsets, weight_offsets, staged_offsets, stride_ai, stride_di, stride_wi,
        feature_tile, in_features, out_features, epsilon0, epsilon1, whole_word, counter,
        SIDES: tl.constexpr, HAS_DIFFERENCE: tl.constexpr, PERTURB_WEIGHT: tl.constexpr,
        DISTRIBUTION: tl.constexpr, ROUNDS: tl.constexpr, STAGED: tl.constexpr, FOLDED: tl.constexpr,
        DTYPE: tl.constexpr, PRECISION: tl.constexpr, TRANSPOSED: tl.constexpr, RAGGED: tl.constexpr,
        BLOCK_N: tl.constexpr, BLOCK_F: tl.constexpr, BLOCK_I: tl.constexpr,
):  # fmt: skip
    """Each side's δWᵀ + sε·(a+δ)Uᵀ in float32, [BLOCK_N, BLOCK_F]; aUᵀ where δ is absent.

    The scalar pointers advance, the offsets are those of the first BLOCK_I in-features: base and difference
    [BLOCK_N, BLOCK_I], weight [BLOCK_I, BLOCK_F], staged [BLOCK_F, BLOCK_I/32], or if TRANSPOSED
    [BLOCK_I, BLOCK_F/32]. RAGGED: in_features is no multiple of BLOCK_I.
    """
    change0 = tl.zeros((BLOCK_N, BLOCK_F), tl.float32)
    change1 = change0
    for i in range(0, bound(in_features), BLOCK_I):
        inside = i + tl.arange(0, BLOCK_I) < in_features
        if PERTURB_WEIGHT:
            base = load_tile(base_ptr, base_offsets, inside[None, :], RAGGED)
            base_ptr += BLOCK_I * tl.cast(stride_ai, tl.int64)
            if STAGED and TRANSPOSED:
                words = load_tile(staged_ptr, staged_offsets, inside[:, None], RAGGED)
                staged_ptr += BLOCK_I * tl.cast((out_features + 31) // 32, tl.int64)
                u = spread_signs(words.to(tl.uint32, bitcast=True), BLOCK_I, BLOCK_F, DTYPE)
            elif STAGED:
                words_inside = i + 32 * tl.arange(0, BLOCK_I // 32) < in_features
                words = load_tile(staged_ptr, staged_offsets, words_inside[None, :], RAGGED)
                staged_ptr += BLOCK_I // 32
                u = spread_signs(words.to(tl.uint32, bitcast=True), BLOCK_F, BLOCK_I, DTYPE)
            elif TRANSPOSED:
                u = _tile_of_u(
                    i // 4, feature_tile * BLOCK_F, out_features, weight_ptr, whole_word, counter,
                    DISTRIBUTION, ROUNDS, BLOCK_I, BLOCK_F, DTYPE)  # fmt: skip
            else:
                u = _tile_of_u(
                    feature_tile * (BLOCK_F // 4), i, in_features, weight_ptr, whole_word, counter,
                    DISTRIBUTION, ROUNDS, BLOCK_F, BLOCK_I, DTYPE)  # fmt: skip
            if not TRANSPOSED:
                u = tl.trans(u)
        if HAS_DIFFERENCE:
            weight = narrow(load_tile(weight_ptr, weight_offsets, inside[:, None], RAGGED), DTYPE)
            weight_ptr += BLOCK_I * tl.cast(stride_wi, tl.int64)
            difference0 = load_tile(difference0_ptr, difference_offsets, inside[None, :], RAGGED)
            difference0_ptr += BLOCK_I * tl.cast(stride_di, tl.int64)
            change0 = dot(difference0, weight, change0, PRECISION)
            if PERTURB_WEIGHT:
                change0 = dot(operand(base, difference0, epsilon0, FOLDED, DTYPE), u, change0, PRECISION)
            if SIDES == 2:
                difference1 = load_tile(difference1_ptr, difference_offsets, inside[None, :], RAGGED)
                difference1_ptr += BLOCK_I * tl.cast(stride_di, tl.int64)
                change1 = dot(difference1, weight, change1, PRECISION)
                if PERTURB_WEIGHT:
                    change1 = dot(operand(base, difference1, epsilon1, FOLDED, DTYPE), u, change1, PRECISION)
        else:
            change0 = dot(narrow(base, DTYPE), u, change0, PRECISION)
    if not HAS_DIFFERENCE:
        change1 = change0
    return change0, change1


@triton.jit
def low_rank_products(
        base_ptr, difference0_ptr, difference1_ptr, weight_ptr,
        base_offsets, difference_offsets, weight_offsets, stride_ai, stride_di, stride_wi,
        row_block, in_features, epsilon0, epsilon1, left_word, right_word, counter,
        SIDES: tl.constexpr, HAS_DIFFERENCE: tl.constexpr,
        DISTRIBUTION: tl.constexpr, ROUNDS: tl.constexpr, RANK: tl.constexpr, RANK_BLOCK: tl.constexpr,
        DTYPE: tl.constexpr, PRECISION: tl.constexpr, RAGGED: tl.constexpr,
        BLOCK_N: tl.constexpr, BLOCK_F: tl.constexpr, BLOCK_I: tl.constexpr,
):  # fmt: skip
    """As :func:`full_rank_products` with U = ABᵀ/√RANK: (a+δ)B over the in-features, then times Aᵀ.

    Ranks above RANK_BLOCK take another pass over the in-features for every RANK_BLOCK columns of the factors.
    """
    change0 = tl.zeros((BLOCK_N, BLOCK_F), tl.float32)
    change1 = change0
    for start in tl.static_range(0, RANK, RANK_BLOCK):
        low0 = tl.zeros((BLOCK_N, RANK_BLOCK), tl.float32)
        low1 = low0
        for i in range(0, bound(in_features), BLOCK_I):
            inside = i + tl.arange(0, BLOCK_I) < in_features
            column = tl.cast(i, tl.int64)
            right = factor_tile(
                i // 4, start, right_word, counter, DISTRIBUTION, ROUNDS, RANK, BLOCK_I, RANK_BLOCK, DTYPE
            )
            base = load_tile(base_ptr + column * stride_ai, base_offsets, inside[None, :], RAGGED).to(
                tl.float32
            )
            if HAS_DIFFERENCE:
                delta = column * stride_di
                difference0 = load_tile(difference0_ptr + delta, difference_offsets, inside[None, :], RAGGED)
                low0 = dot(moved(base, difference0, 1.0, DTYPE), right, low0, PRECISION)
                if SIDES == 2:
                    difference1 = load_tile(
                        difference1_ptr + delta, difference_offsets, inside[None, :], RAGGED
                    )
                    low1 = dot(moved(base, difference1, 1.0, DTYPE), right, low1, PRECISION)
                if start == 0:
                    weight = load_tile(
                        weight_ptr + column * stride_wi, weight_offsets, inside[:, None], RAGGED
                    )
                    weight = narrow(weight, DTYPE)
                    change0 = dot(difference0, weight, change0, PRECISION)
                    if SIDES == 2:
                        change1 = dot(difference1, weight, change1, PRECISION)
            else:
                low0 = dot(narrow(base, DTYPE), right, low0, PRECISION)
        left = factor_tile(
            row_block, start, left_word, counter, DISTRIBUTION, ROUNDS, RANK, BLOCK_F, RANK_BLOCK, DTYPE
        )
        left = tl.trans(left)
        if HAS_DIFFERENCE:
            change0 = _low_rank_product(low0 * (epsilon0 / RANK**0.5), left, change0, PRECISION)
            if SIDES == 2:
                change1 = _low_rank_product(low1 * (epsilon1 / RANK**0.5), left, change1, PRECISION)
        else:
            change0 = _low_rank_product(low0 * (1.0 / RANK**0.5), left, change0, PRECISION)
    if not HAS_DIFFERENCE:
        change1 = change0
    return change0, change1
