"""Differences of a linear layer whose outputs are perturbed, all evaluations in one launch: δWᵀ + sε·ξ.

The weight is the same for all directions, so that their differences are one tall matrix [P·R, in_features] and the
layer one plain product: a tile of W serves whatever rows meet it. Signs, activation and store follow in the tile.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import gcd

import torch
import triton
import triton.language as tl
from torch import Tensor

from zo_triton.directions import Directions
from zo_triton.kernels.arguments import check_arguments, strides
from zo_triton.kernels.choices import pick, situation, upper
from zo_triton.kernels.epilogue import finish_sides
from zo_triton.kernels.exact_products import add_float32_product
from zo_triton.kernels.field import as_word, counter_of
from zo_triton.kernels.launch import blocks, chip_of, compute_dtype, launch
from zo_triton.kernels.layer import tiles
from zo_triton.kernels.linear_products import load_tile
from zo_triton.kernels.node_signs import NODE_UNSPECIALISED, node_arguments, noise_tile
from zo_triton.kernels.numeric import INTERPRETED, bound
from zo_triton.kernels.precision import precision_for

CONFIGS = {
    # Rows × out features × in features of a program's tiles, warps, stages; none timed yet.
    torch.bfloat16: tiles(128, 128, 64, 8, 3),
    torch.float32: tiles(64, 64, 32, 4, 2),
}
TENSOR_CORES = {
    # Of float32 operands, by chip: on sm_80 both factors lie in registers.
    "sm_80": tiles(32, 64, 32, 4, 2),
    "": tiles(128, 64, 32, 4, 2),
}
INTERPRETER_CONFIG = tiles(64, 64, 64, warps=4, stages=1)

BAND = tl.constexpr(8)
"""Tiles of rows that take turns at one tile of the weight, so that both stay in the cache."""


def default_config(dtype: torch.dtype, chip: str = "", precision: str = "ieee") -> Mapping[str, int]:
    """Tile sizes and launch options unless the caller says."""
    if INTERPRETED:
        return INTERPRETER_CONFIG
    if precision == "ieee":
        return CONFIGS[dtype]
    return TENSOR_CORES.get(chip, TENSOR_CORES[""])


@triton.jit
def tile_in_band(pid, row_tiles, feature_tiles):
    """(row tile, feature tile) of a program: bands of row tiles, each going through all feature tiles."""
    first = pid // (BAND * feature_tiles) * BAND
    height = tl.minimum(row_tiles - first, BAND)
    place = pid % (BAND * feature_tiles)
    return first + place % height, place // height


def _chosen_config(out: Tensor, directions: Directions, rows: int, precision: str) -> Mapping[str, int]:
    """The launcher's own config or what was found faster."""
    key = situation(
        "node_linear", out.dtype, distribution=directions.distribution, precision=precision,
        rows=upper(rows, 128, 2048),
    )  # fmt: skip
    return pick(out.device, key, default_config(out.dtype, chip_of(out), precision))


@triton.jit
def plain_product(
        left_ptr, right_ptr, left_offsets, right_offsets, stride_li, stride_ri, terms,
        DTYPE: tl.constexpr, PRECISION: tl.constexpr, RAGGED: tl.constexpr,
        ROWS: tl.constexpr, COLS: tl.constexpr, BLOCK_I: tl.constexpr,
):  # fmt: skip
    """[ROWS, COLS] in float32 of two matrices in DTYPE; offsets of the first BLOCK_I terms, which advance."""
    total = tl.zeros((ROWS, COLS), tl.float32)
    for i in range(0, bound(terms), BLOCK_I):
        inside = i + tl.arange(0, BLOCK_I) < terms
        left = load_tile(left_ptr, left_offsets, inside[None, :], RAGGED)
        right = load_tile(right_ptr, right_offsets, inside[:, None], RAGGED)
        left_ptr += BLOCK_I * tl.cast(stride_li, tl.int64)
        right_ptr += BLOCK_I * tl.cast(stride_ri, tl.int64)
        total = add_float32_product(left, right, total, PRECISION)
    return total


@triton.jit(do_not_specialize=NODE_UNSPECIALISED)
def _node_linear_kernel(
        out_ptr, difference_ptr, weight_ptr, base_output_ptr, signed_eps_ptr,
        rows, sample_rows, tokens, in_features, out_features, row_tiles, feature_tiles,
        stride_on, stride_of, stride_dn, stride_di, stride_wf, stride_wi, stride_zn, stride_zf,
        key0, key1, step, first, node_word, column,
        SIDES: tl.constexpr, ACTIVATION: tl.constexpr, ROUNDS: tl.constexpr,
        DTYPE: tl.constexpr, PRECISION: tl.constexpr, RAGGED: tl.constexpr, ALIGNED: tl.constexpr,
        WHOLE_WORDS: tl.constexpr, OFFSETS: tl.constexpr,
        BLOCK_N: tl.constexpr, BLOCK_F: tl.constexpr, BLOCK_I: tl.constexpr,
):  # fmt: skip
    """Programs as in :func:`tile_in_band`.

    Row p·sample_rows + r is row r of evaluation p: out [rows, out_features], difference [rows, in_features], weight
    [out_features, in_features], base_output [sample_rows, out_features], signed_eps [P]. Row r is token r % tokens
    of sample r // tokens, its nodes token · out_features …. WHOLE_WORDS: these begin at words of the field.
    """
    row_tile, feature_tile = tile_in_band(tl.program_id(0), row_tiles, feature_tiles)

    # Triton notices sizes and strides that 16 divides; rows of 1000 features still start at vectors of 8.
    in_features = in_features // ALIGNED * ALIGNED
    stride_dn, stride_wf = stride_dn // ALIGNED * ALIGNED, stride_wf // ALIGNED * ALIGNED
    m0, f0 = tl.cast(row_tile, tl.int64) * BLOCK_N, tl.cast(feature_tile, tl.int64) * BLOCK_F
    local_n, local_f = tl.arange(0, BLOCK_N), tl.arange(0, BLOCK_F)

    # Rows beyond the edge read the tile's first row instead: never stored, and no load needs a mask for them.
    row_n = tl.where(m0 + local_n < rows, local_n, 0)
    row_f = tl.where(f0 + local_f < out_features, local_f, 0).to(OFFSETS)
    offs_i = tl.arange(0, BLOCK_I).to(OFFSETS)
    change = plain_product(
        difference_ptr + m0 * stride_dn, weight_ptr + f0 * stride_wf,
        row_n.to(OFFSETS)[:, None] * stride_dn + offs_i[None, :] * stride_di,
        offs_i[:, None] * stride_wi + row_f[None, :] * stride_wf, stride_di, stride_wi, in_features,
        DTYPE, PRECISION, RAGGED, BLOCK_N, BLOCK_F, BLOCK_I)  # fmt: skip

    row = m0 + row_n
    p, r = (row // sample_rows).to(tl.int32), (row % sample_rows).to(tl.int32)
    change += noise_tile(
        tl.load(signed_eps_ptr + p), (r // tokens).to(tl.uint32),
        (r % tokens * out_features + feature_tile * BLOCK_F).to(tl.uint32), tokens * out_features,
        as_word(node_word), as_word(column), counter_of(first + p // SIDES, step, key0, key1),
        ROUNDS, WHOLE_WORDS, BLOCK_N, BLOCK_F)  # fmt: skip
    out_ptr += m0 * stride_on + f0 * stride_of
    finish_sides(
        change, change, tl.zeros((1, BLOCK_F), tl.float32), 0.0, 0.0, out_ptr, out_ptr,
        base_output_ptr + f0 * stride_zf, local_n.to(OFFSETS) * stride_on, r.to(OFFSETS) * stride_zn,
        stride_of, stride_zf, rows - m0, 0, out_features - f0,
        1, True, False, ACTIVATION, DTYPE, OFFSETS, BLOCK_N, BLOCK_F)  # fmt: skip


def node_linear(
    out: Tensor,
    difference: Tensor,
    weight: Tensor,
    base_output: Tensor | None,
    directions: Directions,
    application: int,
    first: int,
    samples: int,
    signed_eps: Tensor,
    activation: str,
    transposed: bool = False,
    *,
    precision: str | None = None,
    config: Mapping[str, int] | None = None,
) -> None:
    """Difference of ``activation(x Wᵀ + noise)`` for every evaluation.

    Args:
        out: [P, R, out_features]; with the rest as in :func:`zo_triton.reference.node_linear`.
        difference: [P, R, in_features].
        weight: [out_features, in_features], or if ``transposed`` the other way round.
        base_output: [R, out_features] or None.
        directions: Names the K directions.
        application: Number of the layer's application in the closure.
        first: Column index of its first node.
        samples: N.
        signed_eps: [P].
        activation: Its name.
        transposed: The weight is stored as [in_features, out_features].
        precision: How float32 operands are multiplied, as :mod:`zo_triton.kernels.precision` names it.
        config: Tile sizes and launch options, as in :data:`CONFIGS`.

    Raises:
        TypeError: ``out`` is neither float32 nor bfloat16.
        ValueError: The activation is unknown or lacks its ``base_output``; P is not a multiple of K up to 2K; the
            samples don't divide the rows; or nodes are not perturbed by this distribution.
    """
    dtype, precision = compute_dtype(out.dtype), precision_for(out, precision)
    sides = check_arguments(out, base_output, directions, signed_eps, activation)
    _, sample_rows, out_features = out.shape
    tokens = rows_of_a_sample(sample_rows, samples)
    noise = node_arguments(directions, application, first)
    result = out if out.is_contiguous() else torch.empty_like(out, memory_format=torch.contiguous_format)
    tall, moved = result.flatten(0, 1), difference.to(out.dtype).flatten(0, 1)
    # W is rounded, and turned, once for all directions: its tiles reach the tensor cores without passing registers.
    weight = (weight.mT if transposed else weight).to(out.dtype).contiguous()
    before = result[0] if base_output is None else base_output
    config = config or _chosen_config(out, directions, len(tall), precision)
    row_tiles, feature_tiles = blocks(len(tall), config["BLOCK_N"]), blocks(out_features, config["BLOCK_F"])
    in_features = moved.shape[1]
    reach = max(config["BLOCK_N"], config["BLOCK_F"], config["BLOCK_I"])
    widest = max(sum(abs(stride) for stride in tensor.stride()) for tensor in (tall, moved, weight))
    of_base = sum(size * abs(by) for size, by in zip(before.shape, before.stride(), strict=True))
    launch(
        _node_linear_kernel,
        row_tiles * feature_tiles,
        out,
        out_ptr=tall,
        difference_ptr=moved,
        weight_ptr=weight,
        base_output_ptr=before,
        signed_eps_ptr=signed_eps.contiguous(),
        rows=len(tall),
        sample_rows=sample_rows,
        tokens=tokens,
        in_features=in_features,
        out_features=out_features,
        row_tiles=row_tiles,
        feature_tiles=feature_tiles,
        **strides("o", "nf", tall),
        **strides("d", "ni", moved),
        **strides("w", "fi", weight),
        **strides("z", "nf", before),
        **noise,
        SIDES=sides,
        ACTIVATION=activation,
        DTYPE=dtype,
        PRECISION=precision,
        RAGGED=in_features % config["BLOCK_I"] != 0,
        ALIGNED=gcd(16, in_features, moved.stride(0), weight.stride(0)),
        WHOLE_WORDS=tokens == 1 or out_features % 32 == 0,
        OFFSETS=tl.int32 if max(reach * widest, of_base) < 2**31 else tl.int64,
        **config,
    )
    if result is not out:
        out.copy_(result)


def rows_of_a_sample(rows: int, samples: int) -> int:
    """How many rows each sample has.

    Raises:
        ValueError: Not all have as many.
    """
    if samples < 1 or rows % samples:
        raise ValueError(f"{rows} rows can't be equal shares of {samples} samples; pass the samples' number.")
    return rows // samples
