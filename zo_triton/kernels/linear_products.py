"""The two products of a perturbed linear layer, δWᵀ and (a+δ)Uᵀ, accumulated over the in-features.

One tile of U serves both sides of a direction. Where the input carries no difference only aUᵀ is left, which is
accumulated once and unscaled: the sides differ by sε alone.
"""

from __future__ import annotations

import triton
import triton.language as tl

from zo_triton.kernels.field import draw_tile, expand_signs, factor_tile
from zo_triton.kernels.numeric import dot, narrow


@triton.jit
def _moved(base, difference, scale, DTYPE: tl.constexpr):
    """scale·(a+δ) as an operand."""
    return narrow(scale * (base + difference.to(tl.float32)), DTYPE)


@triton.jit
def _low_rank_product(low, left, accumulator, PRECISION: tl.constexpr):
    """accumulator + low·left; beside a bfloat16 factor the float32 sums go in as two bfloat16 parts."""
    if left.dtype == tl.bfloat16:
        high = narrow(low, tl.bfloat16)
        rest = narrow(low - high.to(tl.float32), tl.bfloat16)
        return dot(rest, left, dot(high, left, accumulator, PRECISION), PRECISION)
    else:
        return dot(low, left, accumulator, PRECISION)


@triton.jit
def full_rank_products(
    base_ptrs,
    difference0_ptrs,
    difference1_ptrs,
    weight_ptrs,
    staged_ptrs,
    stride_ai,
    stride_di,
    stride_wi,
    mask_n,
    mask_f,
    mask_staged,
    row_block,
    in_features,
    epsilon0,
    epsilon1,
    whole_word,
    direction,
    step,
    key0,
    key1,
    SIDES: tl.constexpr,
    HAS_DIFFERENCE: tl.constexpr,
    PERTURB_WEIGHT: tl.constexpr,
    DISTRIBUTION: tl.constexpr,
    ROUNDS: tl.constexpr,
    STAGED: tl.constexpr,
    DTYPE: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_F: tl.constexpr,
    BLOCK_I: tl.constexpr,
):
    """Each side's δWᵀ + sε·(a+δ)Uᵀ, [BLOCK_N, BLOCK_F] float32; without a difference aUᵀ and the same again.

    The pointers are those of the first BLOCK_I in-features; staged_ptrs [BLOCK_F, BLOCK_I/32] points to words.
    """
    change0 = tl.zeros((BLOCK_N, BLOCK_F), tl.float32)
    change1 = change0
    offs_i = tl.arange(0, BLOCK_I)
    words = tl.arange(0, BLOCK_I // 32)
    for i in range(0, in_features, BLOCK_I):
        mask_i = i + offs_i < in_features
        mask_x = mask_n[:, None] & mask_i[None, :]
        if PERTURB_WEIGHT:
            base = tl.load(base_ptrs, mask=mask_x, other=0.0).to(tl.float32)
            base_ptrs += BLOCK_I * tl.cast(stride_ai, tl.int64)
            if STAGED:
                mask_words = mask_staged[:, None] & (i + 32 * words < in_features)[None, :]
                packed = tl.load(staged_ptrs, mask=mask_words, other=0)
                staged_ptrs += BLOCK_I // 32
                u = expand_signs(packed.to(tl.uint32, bitcast=True), BLOCK_F, BLOCK_I, DTYPE)
            else:
                row_blocks = row_block + tl.arange(0, BLOCK_F // 4)
                u = draw_tile(row_blocks, i, in_features, whole_word, direction, step, key0, key1,
                              DISTRIBUTION, ROUNDS, BLOCK_F, BLOCK_I, DTYPE)  # fmt: skip
            u = tl.trans(u)
        if HAS_DIFFERENCE:
            mask_w = mask_i[:, None] & mask_f[None, :]
            weight = narrow(tl.load(weight_ptrs, mask=mask_w, other=0.0), DTYPE)
            weight_ptrs += BLOCK_I * tl.cast(stride_wi, tl.int64)
            difference0 = tl.load(difference0_ptrs, mask=mask_x, other=0.0)
            difference0_ptrs += BLOCK_I * tl.cast(stride_di, tl.int64)
            change0 = dot(difference0, weight, change0, PRECISION)
            if PERTURB_WEIGHT:
                change0 = dot(_moved(base, difference0, epsilon0, DTYPE), u, change0, PRECISION)
            if SIDES == 2:
                difference1 = tl.load(difference1_ptrs, mask=mask_x, other=0.0)
                difference1_ptrs += BLOCK_I * tl.cast(stride_di, tl.int64)
                change1 = dot(difference1, weight, change1, PRECISION)
                if PERTURB_WEIGHT:
                    change1 = dot(_moved(base, difference1, epsilon1, DTYPE), u, change1, PRECISION)
        else:
            change0 = dot(narrow(base, DTYPE), u, change0, PRECISION)
    if not HAS_DIFFERENCE:
        change1 = change0
    return change0, change1


@triton.jit
def low_rank_products(
    base_ptrs,
    difference0_ptrs,
    difference1_ptrs,
    weight_ptrs,
    stride_ai,
    stride_di,
    stride_wi,
    mask_n,
    mask_f,
    row_block,
    in_features,
    epsilon0,
    epsilon1,
    left_word,
    right_word,
    direction,
    step,
    key0,
    key1,
    SIDES: tl.constexpr,
    HAS_DIFFERENCE: tl.constexpr,
    DISTRIBUTION: tl.constexpr,
    ROUNDS: tl.constexpr,
    RANK: tl.constexpr,
    RANK_BLOCK: tl.constexpr,
    DTYPE: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_F: tl.constexpr,
    BLOCK_I: tl.constexpr,
):
    """As :func:`full_rank_products` with U = ABᵀ/√RANK: (a+δ)B over the in-features, then times Aᵀ.

    Ranks above RANK_BLOCK take another pass over the in-features for every RANK_BLOCK columns of the factors.
    """
    change0 = tl.zeros((BLOCK_N, BLOCK_F), tl.float32)
    change1 = change0
    offs_i = tl.arange(0, BLOCK_I)
    for start in tl.static_range(0, RANK, RANK_BLOCK):
        low0 = tl.zeros((BLOCK_N, RANK_BLOCK), tl.float32)
        low1 = low0
        for i in range(0, in_features, BLOCK_I):
            mask_i = i + offs_i < in_features
            mask_x = mask_n[:, None] & mask_i[None, :]
            column = tl.cast(i, tl.int64)
            right = factor_tile(i // 4, start, right_word, direction, step, key0, key1,
                                DISTRIBUTION, ROUNDS, RANK, BLOCK_I, RANK_BLOCK, DTYPE)  # fmt: skip
            base = tl.load(base_ptrs + column * stride_ai, mask=mask_x, other=0.0).to(tl.float32)
            if HAS_DIFFERENCE:
                difference0 = tl.load(difference0_ptrs + column * stride_di, mask=mask_x, other=0.0)
                low0 = dot(_moved(base, difference0, 1.0, DTYPE), right, low0, PRECISION)
                if SIDES == 2:
                    difference1 = tl.load(difference1_ptrs + column * stride_di, mask=mask_x, other=0.0)
                    low1 = dot(_moved(base, difference1, 1.0, DTYPE), right, low1, PRECISION)
                if start == 0:
                    mask_w = mask_i[:, None] & mask_f[None, :]
                    weight = tl.load(weight_ptrs + column * stride_wi, mask=mask_w, other=0.0)
                    weight = narrow(weight, DTYPE)
                    change0 = dot(difference0, weight, change0, PRECISION)
                    if SIDES == 2:
                        change1 = dot(difference1, weight, change1, PRECISION)
            else:
                low0 = dot(narrow(base, DTYPE), right, low0, PRECISION)
        left = factor_tile(row_block, start, left_word, direction, step, key0, key1,
                           DISTRIBUTION, ROUNDS, RANK, BLOCK_F, RANK_BLOCK, DTYPE)  # fmt: skip
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


@triton.jit
def vector_tile(start, cols, word, direction, step, key0, key1,
                DISTRIBUTION: tl.constexpr, ROUNDS: tl.constexpr,
                SIZE: tl.constexpr, DTYPE: tl.constexpr):  # fmt: skip
    """[SIZE] elements of a vector (a matrix of one row) in float32; start and SIZE are multiples of 32."""
    tile = draw_tile(tl.arange(0, 1), start, cols, word, direction, step, key0, key1,
                     DISTRIBUTION, ROUNDS, 4, SIZE, DTYPE).to(tl.float32)  # fmt: skip
    return tl.sum(tl.where(tl.arange(0, 4)[:, None] == 0, tile, 0.0), axis=0)
