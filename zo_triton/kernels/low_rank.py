"""What a linear layer's low-rank direction adds, sε(a+δ)Uᵀ for U = ABᵀ/√r, in two thin products.

The first, t = (a+δ)B/√r, is the same for all of a layer's features. A launch of its own before the layer's takes it
once a direction and keeps it, [P, r, N] in float32: no more memory than the layer's result where there are at least
twice as many features as ranks. The layer adds the second one, sε·tAᵀ, to its sums.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import gcd

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
    factor_tile,
    padded_rank,
)
from zo_triton.kernels.launch import blocks, chip_of, compute_dtype, launch
from zo_triton.kernels.linear_products import load_tile
from zo_triton.kernels.numeric import bound, dot, narrow

CONFIGS = {
    # Samples × in-features of a program's tiles, warps, stages; none timed yet.
    torch.bfloat16: {"BLOCK_N": 64, "BLOCK_I": 64, "num_warps": 4, "num_stages": 3},
    torch.float32: {"BLOCK_N": 64, "BLOCK_I": 32, "num_warps": 4, "num_stages": 2},
}
EXACT_ON_NVIDIA = {"BLOCK_N": 32, "BLOCK_I": 32, "num_warps": 4, "num_stages": 2}
"""Of float32 numbers in "ieee": of 64 samples registers run out on sm_90, and on sm_100 Triton 3.6 has the tensor
cores multiply them, in TF32."""


@triton.jit(do_not_specialize=UNSPECIALISED)
def _projection_kernel(
        out_ptr, base_ptr, difference_ptr, samples, in_features, sample_tiles, rank_tiles,
        stride_an, stride_ai, stride_dp, stride_dn, stride_di, key0, key1, step, first, right_word,
        SIDES: tl.constexpr, HAS_DIFFERENCE: tl.constexpr, DISTRIBUTION: tl.constexpr, ROUNDS: tl.constexpr,
        RANK: tl.constexpr, RANK_BLOCK: tl.constexpr, DTYPE: tl.constexpr, PRECISION: tl.constexpr,
        RAGGED: tl.constexpr, ALIGNED: tl.constexpr, OFFSETS: tl.constexpr,
        BLOCK_N: tl.constexpr, BLOCK_I: tl.constexpr,
):  # fmt: skip
    """(a+δ)B/√RANK, or without a difference aB/√RANK, which serves both sides.

    Program = (k·rank_tiles + rank tile)·sample_tiles + sample tile. base [samples, in_features], difference
    [P, samples, in_features], both in DTYPE, out [P or K, RANK, samples] float32. Counters: (block, right_word,
    first + k, step).
    """
    pid = tl.program_id(0)
    sample_tile = pid % sample_tiles
    start = pid // sample_tiles % rank_tiles * RANK_BLOCK
    k = pid // sample_tiles // rank_tiles
    counter = counter_of(first + k, step, key0, key1)

    # Triton notices sizes and strides that 16 divides; rows of 1000 features still start at vectors of 8.
    in_features, stride_an = in_features // ALIGNED * ALIGNED, stride_an // ALIGNED * ALIGNED
    stride_dp, stride_dn = stride_dp // ALIGNED * ALIGNED, stride_dn // ALIGNED * ALIGNED
    n0, local_n = tl.cast(sample_tile, tl.int64) * BLOCK_N, tl.arange(0, BLOCK_N)
    # Rows beyond the edge read the tile's first row instead: never stored, and no load needs a mask for them.
    row_n = tl.where(n0 + local_n < samples, local_n, 0).to(OFFSETS)
    offs_i = tl.arange(0, BLOCK_I).to(OFFSETS)
    base_offsets = row_n[:, None] * stride_an + offs_i[None, :] * stride_ai
    difference_offsets = row_n[:, None] * stride_dn + offs_i[None, :] * stride_di
    evaluations: tl.constexpr = SIDES if HAS_DIFFERENCE else 1
    p0 = tl.cast(k, tl.int64) * evaluations
    p1 = p0 + evaluations - 1
    base_ptr += n0 * stride_an
    difference0_ptr = difference_ptr + p0 * stride_dp + n0 * stride_dn
    difference1_ptr = difference_ptr + p1 * stride_dp + n0 * stride_dn

    FACTOR: tl.constexpr = tl.bfloat16 if PRECISION == "bf16x6" and DISTRIBUTION == "rademacher" else DTYPE
    of_base = tl.zeros((BLOCK_N, RANK_BLOCK), tl.float32)
    change0, change1 = of_base, of_base
    for i in range(0, bound(in_features), BLOCK_I):
        inside = (i + tl.arange(0, BLOCK_I) < in_features)[None, :]
        right = factor_tile(
            i // 4,
            start,
            as_word(right_word),
            counter,
            DISTRIBUTION,
            ROUNDS,
            RANK,
            BLOCK_I,
            RANK_BLOCK,
            FACTOR,
        )
        base = load_tile(base_ptr, base_offsets, inside, RAGGED)
        base_ptr += BLOCK_I * tl.cast(stride_ai, tl.int64)
        of_base = add_float32_product(base, right, of_base, PRECISION)
        if HAS_DIFFERENCE:
            difference0 = load_tile(difference0_ptr, difference_offsets, inside, RAGGED)
            difference0_ptr += BLOCK_I * tl.cast(stride_di, tl.int64)
            change0 = add_float32_product(difference0, right, change0, PRECISION)
        if HAS_DIFFERENCE and SIDES == 2:
            difference1 = load_tile(difference1_ptr, difference_offsets, inside, RAGGED)
            difference1_ptr += BLOCK_I * tl.cast(stride_di, tl.int64)
            change1 = add_float32_product(difference1, right, change1, PRECISION)

    SHARE: tl.constexpr = 1.0 / RANK**0.5
    column = start + tl.arange(0, RANK_BLOCK)
    offsets = column.to(tl.int64)[None, :] * samples + (n0 + local_n)[:, None]
    mask = (n0 + local_n < samples)[:, None] & (column < RANK)[None, :]
    tl.store(out_ptr + p0 * RANK * samples + offsets, (of_base + change0) * SHARE, mask=mask)
    if evaluations == 2:
        tl.store(out_ptr + p1 * RANK * samples + offsets, (of_base + change1) * SHARE, mask=mask)


@triton.jit
def add_low_rank(
        change0, change1, projected_ptr, k, epsilon0, epsilon1, n0, samples, row_block, left_word, counter,
        SIDES: tl.constexpr, HAS_DIFFERENCE: tl.constexpr, DISTRIBUTION: tl.constexpr, ROUNDS: tl.constexpr,
        RANK: tl.constexpr, RANK_BLOCK: tl.constexpr, DTYPE: tl.constexpr, PRECISION: tl.constexpr,
        BLOCK_N: tl.constexpr, BLOCK_F: tl.constexpr,
):  # fmt: skip
    """Each side's sums with sε·A[(a+δ)B]ᵀ/√RANK added, [BLOCK_F, BLOCK_N]; with A[aB]ᵀ/√RANK where δ is absent.

    projected [P or K, RANK, samples] is what :func:`project` returns; the tile is samples n0 … and A's rows from
    4·row_block on.
    """
    FACTOR: tl.constexpr = tl.bfloat16 if PRECISION == "bf16x6" and DISTRIBUTION == "rademacher" else DTYPE
    sample = n0 + tl.arange(0, BLOCK_N)
    evaluations: tl.constexpr = SIDES if HAS_DIFFERENCE else 1
    own_ptr = projected_ptr + tl.cast(k, tl.int64) * evaluations * RANK * samples
    for start in tl.static_range(0, RANK, RANK_BLOCK):
        left = factor_tile(
            row_block, start, left_word, counter, DISTRIBUTION, ROUNDS, RANK, BLOCK_F, RANK_BLOCK, FACTOR
        )
        column = start + tl.arange(0, RANK_BLOCK)
        offsets = column.to(tl.int64)[:, None] * samples + sample[None, :]
        mask = (column < RANK)[:, None] & (sample < samples)[None, :]
        projected = tl.load(own_ptr + offsets, mask=mask, other=0.0)
        if HAS_DIFFERENCE:
            projected *= epsilon0
        change0 = _add_thin_product(left, projected, change0, PRECISION)
        if evaluations == 2:
            projected = epsilon1 * tl.load(own_ptr + RANK * samples + offsets, mask=mask, other=0.0)
            change1 = _add_thin_product(left, projected, change1, PRECISION)
    if not HAS_DIFFERENCE:
        change1 = change0
    return change0, change1


@triton.jit
def _add_thin_product(left, projected, total, PRECISION: tl.constexpr):
    """total + left·projected; beside a bfloat16 factor the other one goes in as two bfloat16 parts."""
    if left.dtype == tl.bfloat16 and PRECISION != "bf16x6":
        high = narrow(projected, tl.bfloat16)
        rest = narrow(projected - high.to(tl.float32), tl.bfloat16)
        return dot(left, high, dot(left, rest, total, PRECISION), PRECISION)
    else:
        return add_float32_product(left, projected, total, PRECISION)


def project(
    base: Tensor,
    difference: Tensor | None,
    directions: Directions,
    right_word: object,
    rank: int,
    *,
    sides: int,
    dtype: torch.dtype,
    precision: str,
    config: Mapping[str, int] | None = None,
) -> Tensor:
    """(a+δ)B/√r of every evaluation; without a difference aB/√r of every direction.

    Args:
        base: [N, in_features].
        difference: [P, N, in_features] in ``dtype``, or None.
        directions: Names the K directions.
        right_word: B's counter word, as a kernel argument.
        rank: r, of the layer.
        sides: Of each direction.
        dtype: The compute dtype.
        precision: How float32 operands are multiplied, as :mod:`zo_triton.kernels.precision` names it.
        config: Tile sizes and launch options in place of those of this module.

    Returns:
        float32, [P or K, r, N].
    """
    exact = chip_of(base).startswith("sm_") and dtype == torch.float32 and precision == "ieee"
    base, config = base.to(dtype), config or (EXACT_ON_NVIDIA if exact else CONFIGS[dtype])
    samples, in_features = base.shape
    moved = base[None] if difference is None else difference
    evaluations = directions.num * (1 if difference is None else sides)
    out = torch.empty(evaluations, rank, samples, dtype=torch.float32, device=base.device)
    sample_tiles, rank_tiles = (
        blocks(samples, config["BLOCK_N"]),
        blocks(rank, padded_rank(rank, directions.signs)),
    )
    reach = max(config["BLOCK_N"], config["BLOCK_I"])
    widest = max(sum(abs(stride) for stride in tensor.stride()[-2:]) for tensor in (base, moved))
    launch(
        _projection_kernel,
        directions.num * rank_tiles * sample_tiles,
        out,
        out_ptr=out,
        base_ptr=base,
        difference_ptr=moved,
        samples=samples,
        in_features=in_features,
        sample_tiles=sample_tiles,
        rank_tiles=rank_tiles,
        **strides("a", "ni", base),
        **strides("d", "pni", moved),
        **counter_arguments(directions),
        right_word=right_word,
        SIDES=sides,
        HAS_DIFFERENCE=difference is not None,
        **field_constants(directions, rank),
        DTYPE=compute_dtype(dtype),
        PRECISION=precision,
        RAGGED=in_features % config["BLOCK_I"] != 0,
        ALIGNED=gcd(16, in_features, base.stride(0), *moved.stride()[:-1]),
        OFFSETS=tl.int32 if reach * widest < 2**31 else tl.int64,
        **config,
    )
    return out
