"""One layer of the one-launch network: both sides' differences before it → after its activation, in registers.

Folded, Δz = δ(W+sεU)ᵀ + sε·(aUᵀ + v): the second product belongs to the base alone and serves both sides, and one
tile of U serves both products. The first layer has no δ, so its inputs are streamed, however many they are.
"""

from __future__ import annotations

import triton
import triton.language as tl

from zo_triton.kernels.activation import activation_change
from zo_triton.kernels.epilogue import vector_tile
from zo_triton.kernels.field import draw_tile
from zo_triton.kernels.numeric import dot
from zo_triton.kernels.orthogonal import WIDE_WORD

CHUNK = tl.constexpr(32)
"""In-features of a tile: a word of signs."""

WIDE = tl.constexpr(WIDE_WORD)


@triton.jit
def _chunk_of(tile, index, ROWS: tl.constexpr, COLS: tl.constexpr):
    """Columns 32·index … 32·index + 31 of a tile in registers, which can't be addressed by a loop's counter."""
    chunks = tl.reshape(tile, (ROWS, COLS // CHUNK, CHUNK))
    own = tl.arange(0, COLS // CHUNK)[None, :, None] == index
    return tl.sum(tl.where(own, chunks, 0.0), axis=1)


@triton.jit
def layer_differences(
        base_ptr, before_ptr, weight_ptr, moved0, moved1, rows, mask_n, epsilon0, epsilon1, counter,
        FIRST: tl.constexpr, INNER: tl.constexpr, OUTER: tl.constexpr,
        INNER_TILE: tl.constexpr, OUTER_TILE: tl.constexpr,
        WEIGHT_WORD: tl.constexpr, BIAS_WORD: tl.constexpr, ACTIVATION: tl.constexpr, SIDES: tl.constexpr,
        DISTRIBUTION: tl.constexpr, ROUNDS: tl.constexpr, PRECISION: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Both sides' differences after a layer, [BLOCK_N, OUTER_TILE]; those before it [BLOCK_N, INNER_TILE]."""
    outer = tl.arange(0, OUTER_TILE)
    product = tl.zeros((BLOCK_N, OUTER_TILE), tl.float32)
    change0 = product
    change1 = product
    if WEIGHT_WORD >= 0 or not FIRST:
        for column in range(0, INNER, CHUNK):
            inner = column + tl.arange(0, CHUNK)
            if WEIGHT_WORD >= 0:
                mask = mask_n[:, None] & (inner < INNER)[None, :]
                base = tl.load(base_ptr + (rows * INNER)[:, None] + inner[None, :], mask=mask, other=0.0)
                word = tl.full((), WEIGHT_WORD, tl.uint32 if WEIGHT_WORD < WIDE else tl.uint64)
                row_blocks = tl.arange(0, OUTER_TILE // 4)
                u = draw_tile(
                    row_blocks, column, INNER, word, counter, DISTRIBUTION, ROUNDS, OUTER_TILE, CHUNK, tl.float32
                )  # fmt: skip
                u = tl.trans(u)
                product = dot(base, u, product, PRECISION)
            if not FIRST:
                mask = (inner < INNER)[:, None] & (outer < OUTER)[None, :]
                weight = tl.load(weight_ptr + (outer * INNER)[None, :] + inner[:, None], mask=mask, other=0.0)
                part0 = _chunk_of(moved0, column // CHUNK, BLOCK_N, INNER_TILE)
                if WEIGHT_WORD >= 0:
                    change0 = dot(part0, weight + epsilon0 * u, change0, PRECISION)
                else:
                    change0 = dot(part0, weight, change0, PRECISION)
                if SIDES == 2:
                    part1 = _chunk_of(moved1, column // CHUNK, BLOCK_N, INNER_TILE)
                    if WEIGHT_WORD >= 0:
                        change1 = dot(part1, weight + epsilon1 * u, change1, PRECISION)
                    else:
                        change1 = dot(part1, weight, change1, PRECISION)
    if BIAS_WORD >= 0:
        word = tl.full((), BIAS_WORD, tl.uint32 if BIAS_WORD < WIDE else tl.uint64)
        product += vector_tile(0, OUTER, word, counter, DISTRIBUTION, ROUNDS, OUTER_TILE, tl.float32)[None, :]
    change0 += epsilon0 * product
    change1 += epsilon1 * product
    mask = mask_n[:, None] & (outer < OUTER)[None, :]
    if ACTIVATION != "none":
        before = tl.load(before_ptr + (rows * OUTER)[:, None] + outer[None, :], mask=mask, other=0.0)
        change0 = activation_change(before, change0, ACTIVATION)
        if SIDES == 2:
            change1 = activation_change(before, change1, ACTIVATION)
    # Features that are not there must not move the next layer.
    return tl.where(mask, change0, 0.0), tl.where(mask, change1, 0.0)
