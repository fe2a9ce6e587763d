"""One layer of the one-launch network: the difference before it → after its activation, in registers.

Δz = δWᵀ + sε·((a+δ)Uᵀ + v). The products run on tensor cores, in parts (see
:mod:`zo_triton.kernels.exact_products`) and on tiles [features, samples]: U is the left factor, which Hopper takes
from registers, where signs are made. The first layer has no δ, so its inputs are streamed, however many they are; a
later one's tile of U is the whole matrix.
"""

from __future__ import annotations

import triton
import triton.language as tl

from zo_triton.kernels.activation import activation_change
from zo_triton.kernels.epilogue import vector_tile
from zo_triton.kernels.exact_products import (
    add_product,
    add_product_of_memory,
    add_product_with_memory,
    in_parts,
)
from zo_triton.kernels.numeric import settled
from zo_triton.kernels.operand_tiles import drawn_tile, spread_signs
from zo_triton.kernels.orthogonal import WIDE_WORD

LEAST = tl.constexpr(32)
"""Features of a tile at least: a word of signs."""

WIDE = tl.constexpr(WIDE_WORD)


@triton.jit
def _word(WORD: tl.constexpr):
    """A tensor's counter word, which is built into the kernel."""
    return tl.full((), WORD, tl.uint32 if WORD < WIDE else tl.uint64)


@triton.jit
def _left_factor(
        ptr, samples, column, counter, WORD: tl.constexpr, INNER: tl.constexpr, DISTRIBUTION: tl.constexpr,
        ROUNDS: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    """U of COLS in-features from ``column`` on, [ROWS, COLS]: signs as they are, real values in parts."""
    DTYPE: tl.constexpr = tl.bfloat16 if DISTRIBUTION == "rademacher" else tl.float32
    inner = tl.full((), INNER, tl.int32)
    u = drawn_tile(
        0, column, inner, ptr, samples, _word(WORD), counter, DISTRIBUTION, ROUNDS, ROWS, COLS, DTYPE
    )
    if DISTRIBUTION == "rademacher":
        return spread_signs(u, 1.0, ROWS, COLS, DTYPE)
    else:
        return in_parts(u)


@triton.jit
def _streamed(
        base_ptr, part_stride, samples, rows, counter, WORD: tl.constexpr, INNER: tl.constexpr,
        INNER_TILE: tl.constexpr, DISTRIBUTION: tl.constexpr, ROUNDS: tl.constexpr, SETTLED: tl.constexpr,
        BLOCK_N: tl.constexpr, BLOCK_I: tl.constexpr, OUTER_TILE: tl.constexpr,
):  # fmt: skip
    """Uaᵀ, [OUTER_TILE, BLOCK_N], summed over the in-features BLOCK_I at a time."""
    product = tl.zeros((OUTER_TILE, BLOCK_N), tl.float32)
    for column in range(0, INNER_TILE, BLOCK_I):
        left = _left_factor(
            base_ptr, samples, column, counter, WORD, INNER, DISTRIBUTION, ROUNDS, OUTER_TILE, BLOCK_I
        )
        offsets = (column + tl.arange(0, BLOCK_I))[:, None] + (rows * INNER_TILE)[None, :]
        product = add_product_with_memory(left, base_ptr, part_stride, offsets, product)
        if SETTLED:
            product = settled(product)
    return product


@triton.jit
def _change(
        product, left, moved, weight_ptr, epsilon,
        TRAINED: tl.constexpr, INNER_TILE: tl.constexpr, OUTER_TILE: tl.constexpr,
):  # fmt: skip
    """Wδᵀ + sε·(product + Uδᵀ), [OUTER_TILE, BLOCK_N]; left: U, W in parts [OUTER_TILE, INNER_TILE]."""
    parts = in_parts(moved)
    if TRAINED:
        product = add_product(left, parts, product)
    offsets = (INNER_TILE * tl.arange(0, OUTER_TILE))[:, None] + tl.arange(0, INNER_TILE)[None, :]
    return add_product_of_memory(weight_ptr, OUTER_TILE * INNER_TILE, offsets, parts, epsilon * product)


@triton.jit
def _activated(
        change, before_ptr, rows, ACTIVATION: tl.constexpr, OUTER: tl.constexpr, OUTER_TILE: tl.constexpr
):  # fmt: skip
    """The activation's difference; 0 in rows of padding, which must not move the next layer."""
    outer = tl.arange(0, OUTER_TILE)
    mask = (outer < OUTER)[:, None]
    if ACTIVATION != "none":
        before = tl.load(before_ptr + outer[:, None] + (rows * OUTER)[None, :], mask=mask, other=0.0)
        change = activation_change(before, change, ACTIVATION)
    return tl.where(mask, change, 0.0)


@triton.jit
def layer_difference(
        base_ptr, before_ptr, weight_ptr, moved, start, rows, samples, epsilon, counter,
        FIRST: tl.constexpr, INNER: tl.constexpr, OUTER: tl.constexpr,
        INNER_TILE: tl.constexpr, OUTER_TILE: tl.constexpr,
        WEIGHT_WORD: tl.constexpr, BIAS_WORD: tl.constexpr, ACTIVATION: tl.constexpr,
        DISTRIBUTION: tl.constexpr, ROUNDS: tl.constexpr, SETTLED: tl.constexpr, BLOCK_N: tl.constexpr,
        BLOCK_I: tl.constexpr,
):  # fmt: skip
    """The difference after a layer, [OUTER_TILE, BLOCK_N]; the one before it [INNER_TILE, BLOCK_N].

    Base inputs [3, samples, INNER_TILE] and the weight [3, OUTER_TILE, INNER_TILE] in parts; base outputs
    [samples, OUTER]; the tile's samples are start + rows, int64 + int32.
    """
    TRAINED: tl.constexpr = WEIGHT_WORD >= 0
    base_ptr += start * INNER_TILE
    part_stride = tl.cast(samples, tl.int64) * INNER_TILE
    product = tl.zeros((OUTER_TILE, BLOCK_N), tl.float32)
    left = product
    if TRAINED and FIRST:
        product = _streamed(
            base_ptr, part_stride, samples, rows, counter, WEIGHT_WORD, INNER, INNER_TILE, DISTRIBUTION, ROUNDS,
            SETTLED, BLOCK_N, BLOCK_I, OUTER_TILE)  # fmt: skip
    elif TRAINED:
        left = _left_factor(
            base_ptr, samples, 0, counter, WEIGHT_WORD, INNER, DISTRIBUTION, ROUNDS, OUTER_TILE, INNER_TILE
        )
        offsets = tl.arange(0, INNER_TILE)[:, None] + (rows * INNER_TILE)[None, :]
        product = add_product_with_memory(left, base_ptr, part_stride, offsets, product)
    if BIAS_WORD >= 0:
        bias = vector_tile(0, OUTER, _word(BIAS_WORD), counter, DISTRIBUTION, ROUNDS, OUTER_TILE, tl.float32)
        product += bias[:, None]
    if FIRST:
        change = epsilon * product
    else:
        change = _change(product, left, moved, weight_ptr, epsilon, TRAINED, INNER_TILE, OUTER_TILE)
    return _activated(change, before_ptr + start * OUTER, rows, ACTIVATION, OUTER, OUTER_TILE)
