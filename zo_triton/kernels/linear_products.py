"""The products of a perturbed linear layer, (W+sεU)δᵀ and sεUaᵀ, accumulated over the in-features.

One tile of U serves both sides of a direction. Where the input carries no difference only Uaᵀ is left, which is
accumulated once and unscaled: the sides differ by sε alone. Of low rank the loop takes Wδᵀ alone, and
:mod:`zo_triton.kernels.low_rank` adds the rest.
"""

from __future__ import annotations

import triton
import triton.language as tl

from zo_triton.kernels.exact_products import add_float32_product
from zo_triton.kernels.numeric import INTERPRETED, bound, dot, narrow, settled
from zo_triton.kernels.operand_tiles import drawn_tile, spread_signs


@triton.jit
def load_tile(ptr, offsets, mask, MASKED: tl.constexpr):
    """A tile at a scalar pointer; 0 outside the mask, if there is one."""
    if MASKED:
        return tl.load(ptr + offsets, mask=mask, other=0.0)
    else:
        return tl.load(ptr + offsets)


@triton.jit
def perturbed(weight, scaled, share, DIVIDED: tl.constexpr, DTYPE: tl.constexpr):
    """share·W + scale·U in DTYPE; DIVIDED: W has been multiplied by its share."""
    if DIVIDED and not INTERPRETED:
        return weight + scaled
    else:
        weight = weight.to(tl.float32) if DIVIDED else share * weight.to(tl.float32)
        return narrow(weight + scaled.to(tl.float32), DTYPE)


@triton.jit
def unpacked(u, scale, DTYPE: tl.constexpr):
    """scale·U in DTYPE of packed signs; other values of U as they are."""
    if u.dtype == tl.uint32:
        return spread_signs(u, scale, u.shape[0], 32 * u.shape[1], DTYPE)
    else:
        return u


@triton.jit
def scaled(u, scale, DTYPE: tl.constexpr):
    """scale·U in DTYPE: exact in bfloat16, where the scale is a power of two; U's signs may be packed."""
    if u.dtype == tl.uint32:
        return unpacked(u, scale, DTYPE)
    elif INTERPRETED:
        return narrow(scale * u.to(tl.float32), DTYPE)
    else:
        return u * narrow(scale, DTYPE)


@triton.jit
def add_side(
        total, weight, u, base, difference, scale, share,
        FOLDED: tl.constexpr, DTYPE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """total + (share·W + scale·U)δᵀ + scale·Uaᵀ, u as :func:`scaled` takes it.

    In bfloat16 parts Wδᵀ + U(scale·(a+δ))ᵀ: signs that no scale touches are one part.
    """
    if PRECISION == "bf16x6":
        total = add_float32_product(weight, difference, total, PRECISION)
        return add_float32_product(u, scale * (base + difference), total, PRECISION)
    else:
        u = scaled(u, scale, DTYPE)
        total = dot(perturbed(weight, u, share, FOLDED, DTYPE), difference, total, PRECISION)
        return dot(u, base, total, PRECISION)


@triton.jit
def full_rank_products(
        base_ptr, difference0_ptr, difference1_ptr, weight_ptr, staged_ptr, row_n, row_f, offs_i, staged_offsets,
        stride_an, stride_ai, stride_dn, stride_di, stride_wf, stride_wi,
        feature_tile, in_features, out_features, scale0, scale1, share, whole_word, counter,
        SIDES: tl.constexpr, HAS_DIFFERENCE: tl.constexpr, PERTURB_WEIGHT: tl.constexpr,
        DISTRIBUTION: tl.constexpr, ROUNDS: tl.constexpr, STAGED: tl.constexpr, FOLDED: tl.constexpr,
        DTYPE: tl.constexpr, PRECISION: tl.constexpr, TRANSPOSED: tl.constexpr, RAGGED: tl.constexpr,
        SETTLED: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_F: tl.constexpr, BLOCK_I: tl.constexpr,
):  # fmt: skip
    """Each side's (share·W + scale·U)δᵀ + scale·Uaᵀ in float32, [BLOCK_F, BLOCK_N]; Uaᵀ where δ is absent.

    The scalar pointers advance; base [samples, in_features], difference [samples, in_features] and weight
    [out_features, in_features] are read at row_n, row_f and offs_i of the first BLOCK_I in-features. staged_offsets
    [BLOCK_F, BLOCK_I/32], or if TRANSPOSED [BLOCK_I, BLOCK_F/32]. RAGGED: in_features is no multiple of BLOCK_I, or
    0. SETTLED: an iteration ends when its products are done (see :func:`zo_triton.kernels.numeric.settled`).
    """
    base_offsets = offs_i[:, None] * stride_ai + row_n[None, :] * stride_an
    difference_offsets = offs_i[:, None] * stride_di + row_n[None, :] * stride_dn
    weight_offsets = row_f[:, None] * stride_wf + offs_i[None, :] * stride_wi
    SIGNS: tl.constexpr = DISTRIBUTION == "rademacher"
    U_DTYPE: tl.constexpr = tl.bfloat16 if PRECISION == "bf16x6" and SIGNS else DTYPE
    # Signs of 16 bits are unpacked once they have a scale, which then costs nothing; one tile is turned over.
    PACKED: tl.constexpr = SIGNS and HAS_DIFFERENCE and DTYPE.primitive_bitwidth == 16 and not TRANSPOSED
    change0 = tl.zeros((BLOCK_F, BLOCK_N), tl.float32)
    change1 = change0
    # A loop that may not run at all has the assembler wait after every single instruction of the products.
    for i in range(0, bound(tl.maximum(in_features, 1)), BLOCK_I):
        inside = i + tl.arange(0, BLOCK_I) < in_features
        if PERTURB_WEIGHT:
            base = narrow(load_tile(base_ptr, base_offsets, inside[:, None], RAGGED), DTYPE)
            base_ptr += BLOCK_I * tl.cast(stride_ai, tl.int64)
            if STAGED and TRANSPOSED:
                words = load_tile(staged_ptr, staged_offsets, inside[:, None], RAGGED)
                staged_ptr += BLOCK_I * tl.cast((out_features + 31) // 32, tl.int64)
                u = words.to(tl.uint32, bitcast=True)
            elif STAGED:
                words_inside = i + 32 * tl.arange(0, BLOCK_I // 32) < in_features
                words = load_tile(staged_ptr, staged_offsets, words_inside[None, :], RAGGED)
                staged_ptr += BLOCK_I // 32
                u = words.to(tl.uint32, bitcast=True)
            elif TRANSPOSED:
                u = drawn_tile(
                    i // 4, feature_tile * BLOCK_F, out_features, weight_ptr, out_features,
                    whole_word, counter,
                    DISTRIBUTION, ROUNDS, BLOCK_I, BLOCK_F, U_DTYPE)  # fmt: skip
            else:
                u = drawn_tile(
                    feature_tile * (BLOCK_F // 4), i, in_features, weight_ptr, in_features,
                    whole_word, counter,
                    DISTRIBUTION, ROUNDS, BLOCK_F, BLOCK_I, U_DTYPE)  # fmt: skip
            if not PACKED:
                u = unpacked(u, 1.0, U_DTYPE)
            if TRANSPOSED:
                u = tl.trans(u)
        if HAS_DIFFERENCE:
            weight = narrow(load_tile(weight_ptr, weight_offsets, inside[None, :], RAGGED), DTYPE)
            weight_ptr += BLOCK_I * tl.cast(stride_wi, tl.int64)
            difference0 = load_tile(difference0_ptr, difference_offsets, inside[:, None], RAGGED)
            difference0_ptr += BLOCK_I * tl.cast(stride_di, tl.int64)
            if PERTURB_WEIGHT:
                change0 = add_side(
                    change0, weight, u, base, difference0, scale0, share, FOLDED, DTYPE, PRECISION
                )
            else:
                change0 = add_float32_product(weight, difference0, change0, PRECISION)
            if SIDES == 2:
                difference1 = load_tile(difference1_ptr, difference_offsets, inside[:, None], RAGGED)
                difference1_ptr += BLOCK_I * tl.cast(stride_di, tl.int64)
                if PERTURB_WEIGHT:
                    change1 = add_side(
                        change1, weight, u, base, difference1, scale1, share, FOLDED, DTYPE, PRECISION
                    )
                else:
                    change1 = add_float32_product(weight, difference1, change1, PRECISION)
        else:
            change0 = add_float32_product(u, base, change0, PRECISION)
        if SETTLED:
            change0, change1 = settled(change0), settled(change1)
    if not HAS_DIFFERENCE:
        change1 = change0
    return change0, change1
