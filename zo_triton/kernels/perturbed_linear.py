"""Differences of a perturbed linear layer, all directions and both their sides in one launch.

Δz = δ(W+sεU)ᵀ + sε·(aUᵀ + v) with U, v drawn inside the kernel, then the activation's exact difference. A
program owns one tile [out_features, samples] of one direction; both sides of a pair share its tile of U. W+sεU is
rounded to the compute dtype as W alone would be, and what is lost belongs to δ, never to the part of first order.

W+sεU and U are the left factors of the products: made in registers, they go from there into the tensor cores, and
the right ones, δ and a, come as they lie in memory. Without δ one product is left, which serves both sides. Of low
rank, U = ABᵀ/√r, a launch beforehand takes (a+δ)B, and the loop's sums are Wδᵀ alone (see
:mod:`zo_triton.kernels.low_rank`).
"""

from __future__ import annotations

from collections.abc import Mapping
from math import gcd

import torch
import triton
import triton.language as tl
from torch import Tensor

from zo_triton.directions import Directions
from zo_triton.kernels.arguments import strides
from zo_triton.kernels.choices import pick, situation, upper
from zo_triton.kernels.epilogue import evaluations_of, finish_sides, vector_tile
from zo_triton.kernels.field import UNSPECIALISED, as_word, counter_of
from zo_triton.kernels.folding import fold, fraction_of
from zo_triton.kernels.launch import blocks, chip_of, launch
from zo_triton.kernels.layer import Layer, prepare_layer, tiles
from zo_triton.kernels.linear_products import full_rank_products
from zo_triton.kernels.low_rank import add_low_rank, project
from zo_triton.kernels.numeric import INTERPRETED
from zo_triton.kernels.precision import precision_for

CONFIGS = {
    # (sides, compute dtype, where U comes from): samples × out features × in features of a program's tiles,
    # warps, stages. ``real``: values that are not signs, which cost most: a tile of them serves many samples. Of
    # those that compile for sm_90 without spilling a register the ones that the static model bounds least; none has
    # been timed yet. Four warps leave room for two programs on a multiprocessor: one multiplies while one waits.
    (1, torch.bfloat16, "staged"): tiles(128, 128, 32, 4, 4),
    (1, torch.bfloat16, "inline"): tiles(128, 128, 64, 8, 3),
    (1, torch.bfloat16, "low_rank"): tiles(256, 128, 64, 8, 3),
    (2, torch.bfloat16, "staged"): tiles(128, 128, 64, 8, 3),
    (1, torch.bfloat16, "real"): tiles(256, 64, 32, 4, 3),
    (2, torch.bfloat16, "inline"): tiles(64, 128, 64, 8, 3),
    (2, torch.bfloat16, "real"): tiles(128, 128, 64, 8, 2),
    (2, torch.bfloat16, "low_rank"): tiles(128, 128, 64, 8, 3),
    (1, torch.float32, "staged"): tiles(64, 64, 32, 8, 2),
    (1, torch.float32, "inline"): tiles(64, 64, 32, 8, 2),
    (1, torch.float32, "real"): tiles(64, 64, 32, 4, 2),
    (1, torch.float32, "low_rank"): tiles(32, 64, 32, 8, 1),
    (2, torch.float32, "staged"): tiles(32, 64, 32, 8, 2),
    (2, torch.float32, "inline"): tiles(32, 64, 32, 8, 2),
    (2, torch.float32, "real"): tiles(32, 64, 32, 8, 2),
    (2, torch.float32, "low_rank"): tiles(32, 64, 32, 8, 1),
}
OVERRIDES: dict[str, dict[tuple[int, torch.dtype, str], dict[str, int]]] = {
    "sm_80": {
        (1, torch.bfloat16, "staged"): tiles(64, 128, 32, 4, 3),
        (1, torch.bfloat16, "inline"): tiles(64, 128, 64, 8, 3),
        (1, torch.bfloat16, "real"): tiles(256, 64, 32, 8, 3),
        (1, torch.bfloat16, "low_rank"): tiles(128, 128, 32, 8, 3),
        (2, torch.bfloat16, "low_rank"): tiles(64, 128, 32, 8, 3),
        (2, torch.bfloat16, "staged"): tiles(64, 128, 32, 8, 3),
        (2, torch.bfloat16, "inline"): tiles(64, 128, 32, 8, 3),
        (2, torch.bfloat16, "real"): tiles(64, 128, 32, 8, 3),
        (1, torch.float32, "staged"): tiles(64, 32, 32, 8, 2),
        (1, torch.float32, "inline"): tiles(64, 32, 32, 8, 2),
        (2, torch.float32, "staged"): tiles(32, 32, 32, 8, 2),
        (2, torch.float32, "inline"): tiles(32, 32, 32, 8, 2),
    },
    "sm_100": {
        (2, torch.bfloat16, "staged"): tiles(64, 128, 64, 8, 3),
        (2, torch.bfloat16, "real"): tiles(64, 128, 64, 8, 2),
        # In 64 features Triton 3.6 has the tensor cores multiply float32 numbers, in TF32.
        (1, torch.float32, "staged"): tiles(64, 32, 32, 8, 2),
        (1, torch.float32, "inline"): tiles(64, 32, 32, 8, 2),
        (1, torch.float32, "real"): tiles(64, 32, 32, 8, 2),
        (1, torch.float32, "low_rank"): tiles(64, 32, 32, 8, 1),
        (2, torch.float32, "staged"): tiles(32, 32, 32, 8, 2),
        (2, torch.float32, "inline"): tiles(32, 32, 32, 8, 2),
        (2, torch.float32, "real"): tiles(32, 32, 32, 8, 2),
        (2, torch.float32, "low_rank"): tiles(32, 32, 32, 8, 1),
    },
    "gfx942": {
        (1, torch.bfloat16, "staged"): tiles(128, 128, 32, 4, 2),
        (1, torch.bfloat16, "inline"): tiles(64, 128, 64, 8, 2),
        (1, torch.bfloat16, "real"): tiles(256, 64, 32, 4, 2),
        (1, torch.bfloat16, "low_rank"): tiles(128, 128, 64, 8, 2),
        (2, torch.bfloat16, "low_rank"): tiles(64, 128, 32, 8, 2),
        (2, torch.bfloat16, "staged"): tiles(64, 128, 64, 8, 2),
        (2, torch.bfloat16, "inline"): tiles(64, 128, 64, 8, 2),
        (2, torch.bfloat16, "real"): tiles(64, 128, 32, 8, 2),
    },
}
"""Chips that the configs above don't fit, whose registers or memory run out."""

TENSOR_CORES = {
    (1, torch.float32, "staged"): tiles(64, 128, 32, 4, 2),
    (1, torch.float32, "inline"): tiles(64, 128, 32, 4, 2),
    (1, torch.float32, "real"): tiles(64, 64, 32, 4, 2),
    (1, torch.float32, "low_rank"): tiles(64, 128, 32, 4, 2),
    (2, torch.float32, "staged"): tiles(32, 128, 32, 4, 2),
    (2, torch.float32, "inline"): tiles(32, 128, 32, 4, 2),
    (2, torch.float32, "real"): tiles(64, 64, 32, 4, 2),
    (2, torch.float32, "low_rank"): tiles(64, 128, 32, 4, 2),
}
"""Of float32 operands that NVIDIA's tensor cores multiply. Warps that take several products in turn are laid along
a tile's features: eight of them would take 64 features twice."""

SMALL_TENSOR_CORES = {
    (1, torch.float32, "staged"): tiles(64, 64, 32, 4, 2),
    (1, torch.float32, "inline"): tiles(64, 64, 32, 4, 2),
    (1, torch.float32, "real"): tiles(32, 64, 32, 4, 2),
    (1, torch.float32, "low_rank"): tiles(32, 32, 32, 4, 2),
    (2, torch.float32, "staged"): tiles(32, 64, 32, 4, 2),
    (2, torch.float32, "inline"): tiles(32, 64, 32, 4, 2),
    (2, torch.float32, "real"): tiles(32, 64, 32, 4, 2),
    (2, torch.float32, "low_rank"): tiles(16, 64, 32, 4, 2),
}
"""The same on sm_80, where both factors lie in registers, and for weights stored as [in_features, out_features]
on sm_100, where those above spill."""

INVOLVED = {
    (1, torch.bfloat16, "staged"): tiles(128, 128, 64, 8, 3),
    (1, torch.bfloat16, "real"): tiles(128, 64, 32, 4, 3),
}
"""Before an activation whose intermediates don't fit the registers beside 128 sums a thread."""

TRANSPOSED = {(2, torch.bfloat16, source): tiles(64, 128, 32, 8, 3) for source in ("inline", "real")}
"""Of weights stored as [in_features, out_features], where those above spill."""

INTERPRETER_CONFIG = tiles(64, 64, 64, warps=4, stages=1)


FEW_SAMPLES = 128
"""Up to so many a tile of 256 would be half empty."""


def default_config(
    sides: int,
    dtype: torch.dtype,
    source: str,
    samples: int,
    chip: str,
    transposed: bool = False,
    precision: str = "ieee",
    activation: str = "none",
) -> Mapping[str, int]:
    """Tile sizes and launch options unless the caller says; ``source`` as in :data:`CONFIGS`."""
    if INTERPRETED:
        return INTERPRETER_CONFIG
    if precision != "ieee":
        small = chip == "sm_80" or (transposed and chip == "sm_100")
        return (SMALL_TENSOR_CORES if small else TENSOR_CORES)[sides, dtype, source]
    involved = {} if activation in ("none", "relu") else INVOLVED
    configs = {**CONFIGS, **involved, **OVERRIDES.get(chip, {}), **(TRANSPOSED if transposed else {})}
    chosen = configs[sides, dtype, source]
    return configs[sides, dtype, "inline"] if chosen["BLOCK_N"] > samples <= FEW_SAMPLES else chosen


@triton.jit(do_not_specialize=UNSPECIALISED)
def _perturbed_linear_kernel(
        out_ptr, base_ptr, difference_ptr, weight_ptr, base_output_ptr, signed_eps_ptr, staged_ptr, projected_ptr,
        samples, in_features, out_features, sample_tiles, feature_tiles,
        stride_op, stride_on, stride_of, stride_an, stride_ai, stride_dp, stride_dn, stride_di,
        stride_wf, stride_wi, stride_zn, stride_zf,
        key0, key1, step, first, whole_word, left_word, bias_word,
        SIDES: tl.constexpr, HAS_DIFFERENCE: tl.constexpr,
        PERTURB_WEIGHT: tl.constexpr, PERTURB_BIAS: tl.constexpr, ACTIVATION: tl.constexpr,
        DISTRIBUTION: tl.constexpr, ROUNDS: tl.constexpr, RANK: tl.constexpr, RANK_BLOCK: tl.constexpr,
        STAGED: tl.constexpr, FOLDED: tl.constexpr, DTYPE: tl.constexpr, PRECISION: tl.constexpr,
        TRANSPOSED: tl.constexpr, RAGGED: tl.constexpr, SETTLED: tl.constexpr, ALIGNED: tl.constexpr,
        OFFSETS: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_F: tl.constexpr, BLOCK_I: tl.constexpr,
):  # fmt: skip
    """Program = (direction·feature_tiles + feature tile)·sample_tiles + sample tile.

    base [samples, in_features], difference [P, samples, in_features], weight [out_features, in_features],
    base_output [samples, out_features], out [P, samples, out_features], signed_eps [P], P = SIDES·K;
    staged [K, 4·ceil(out_features/4), ceil(in_features/32)]; projected [P or K, RANK, samples] is that of
    :func:`zo_triton.kernels.low_rank.project`. Counters: (block, tensor word, first + k, step).
    TRANSPOSED: the field's matrix is [in_features, out_features], its rows those of the sum, and so is staged.
    """
    pid = tl.program_id(0)
    sample_tile = pid % sample_tiles
    feature_tile = pid // sample_tiles % feature_tiles
    k = pid // sample_tiles // feature_tiles
    counter = counter_of(first + k, step, key0, key1)

    # Triton notices sizes and strides that 16 divides; rows of 1000 features still start at vectors of 8.
    in_features = in_features // ALIGNED * ALIGNED
    stride_an = stride_an // ALIGNED * ALIGNED
    if TRANSPOSED:
        stride_wi = stride_wi // ALIGNED * ALIGNED
    else:
        stride_wf = stride_wf // ALIGNED * ALIGNED
    stride_dp, stride_dn = stride_dp // ALIGNED * ALIGNED, stride_dn // ALIGNED * ALIGNED
    n0, f0 = tl.cast(sample_tile, tl.int64) * BLOCK_N, tl.cast(feature_tile, tl.int64) * BLOCK_F
    local_n, local_f = tl.arange(0, BLOCK_N), tl.arange(0, BLOCK_F)
    row_block = feature_tile * (BLOCK_F // 4)
    p0, p1, epsilon0, epsilon1 = evaluations_of(k, signed_eps_ptr, SIDES)

    # Rows beyond the edge read the tile's first row instead: never stored, and no load needs a mask for them.
    row_n = tl.where(n0 + local_n < samples, local_n, 0).to(OFFSETS)
    row_f = tl.where(f0 + local_f < out_features, local_f, 0).to(OFFSETS)
    offs_i = tl.arange(0, BLOCK_I).to(OFFSETS)
    base_ptr += n0 * stride_an
    weight_ptr += f0 * stride_wf
    difference0_ptr = difference_ptr + p0 * stride_dp + n0 * stride_dn
    difference1_ptr = difference_ptr + p1 * stride_dp + n0 * stride_dn
    FULL_RANK: tl.constexpr = PERTURB_WEIGHT and RANK == 0
    if HAS_DIFFERENCE or FULL_RANK:
        if TRANSPOSED:
            padded_rows, words = (in_features + 3) // 4 * 4, (out_features + 31) // 32
            staged_ptr += tl.cast(k, tl.int64) * padded_rows * words
            column = feature_tile * (BLOCK_F // 32) + tl.arange(0, BLOCK_F // 32)
            staged_offsets = offs_i[:, None] * words + tl.where(column < words, column, 0)[None, :]
        else:
            padded_rows, words = (out_features + 3) // 4 * 4, (in_features + 31) // 32
            staged_ptr += (tl.cast(k, tl.int64) * padded_rows + f0) * words
            staged_offsets = row_f[:, None] * words + tl.arange(0, BLOCK_I // 32)[None, :]
        # In bfloat16 ε's power of two goes into U, which loses nothing, and its fraction by W and the sums.
        fraction = fraction_of(
            signed_eps_ptr + p0, DTYPE.primitive_bitwidth == 16 and HAS_DIFFERENCE and FULL_RANK
        )
        scale0, scale1 = epsilon0 / fraction, epsilon1 / fraction
        change0, change1 = full_rank_products(
            base_ptr, difference0_ptr, difference1_ptr, weight_ptr, staged_ptr,
            row_n, row_f, offs_i, staged_offsets, stride_an, stride_ai, stride_dn, stride_di, stride_wf, stride_wi,
            feature_tile, in_features, out_features, scale0, scale1, 1.0 / fraction, as_word(whole_word), counter,
            SIDES, HAS_DIFFERENCE, FULL_RANK, DISTRIBUTION, ROUNDS, STAGED, FOLDED, DTYPE, PRECISION,
            TRANSPOSED, RAGGED, SETTLED, BLOCK_N, BLOCK_F, BLOCK_I)  # fmt: skip
        change0, change1 = change0 * fraction, change1 * fraction
    else:
        change0 = tl.zeros((BLOCK_F, BLOCK_N), tl.float32)
        change1 = change0
    if RANK > 0:
        change0, change1 = add_low_rank(
            change0, change1, projected_ptr, k, epsilon0, epsilon1, n0, samples, row_block, as_word(left_word),
            counter, SIDES, HAS_DIFFERENCE, DISTRIBUTION, ROUNDS, RANK, RANK_BLOCK, DTYPE, PRECISION,
            BLOCK_N, BLOCK_F)  # fmt: skip
    bias = tl.zeros((BLOCK_F,), tl.float32)
    if PERTURB_BIAS:
        bias_word = as_word(bias_word)
        bias = vector_tile(
            feature_tile * BLOCK_F, out_features, bias_word, counter, DISTRIBUTION, ROUNDS, BLOCK_F, DTYPE
        )
    out_ptr += n0 * stride_on + f0 * stride_of
    before_ptr = base_output_ptr + n0 * stride_zn + f0 * stride_zf
    out0_ptr, out1_ptr = out_ptr + p0 * stride_op, out_ptr + p1 * stride_op
    finish_sides(
        change0, change1, bias[:, None], epsilon0, epsilon1, out0_ptr, out1_ptr, before_ptr,
        local_f.to(OFFSETS) * stride_of, local_f.to(OFFSETS) * stride_zf, stride_on, stride_zn,
        out_features - f0, 0, samples - n0,
        SIDES, HAS_DIFFERENCE, PERTURB_BIAS, ACTIVATION, DTYPE, OFFSETS, BLOCK_F, BLOCK_N)  # fmt: skip


def _source(layer: Layer, directions: Directions) -> str:
    """Where the directions come from, in the words of :data:`CONFIGS`."""
    if layer.rank:
        return "low_rank"
    return "real" if layer.bits == "inline" and not directions.signs else layer.bits


def _chosen_config(
    out: Tensor, layer: Layer, directions: Directions, transposed: bool, precision: str, activation: str
) -> Mapping[str, int]:
    """The launcher's own config or what was found faster."""
    source, samples = _source(layer, directions), out.shape[1]
    key = situation(
        "perturbed_linear", out.dtype, sides=layer.sides, distribution=directions.elementwise, bits=source,
        precision=precision, samples=upper(samples, 32, 64, FEW_SAMPLES),
    )  # fmt: skip
    own = default_config(
        layer.sides, out.dtype, source, samples, chip_of(out), transposed, precision, activation
    )
    return pick(out.device, key, own)


def launch_perturbed_linear(
    out: Tensor,
    base: Tensor,
    difference: Tensor | None,
    weight: Tensor,
    base_output: Tensor | None,
    directions: Directions,
    weight_id: int,
    bias_id: int,
    signed_eps: Tensor,
    activation: str,
    transposed: bool = False,
    *,
    bits: str | None = None,
    precision: str | None = None,
    config: Mapping[str, int] | None = None,
) -> None:
    """Difference of ``activation(x Wᵀ + v)`` for every evaluation; of ``activation(x W + v)`` if ``transposed``.

    Shapes and meaning are those of :func:`zo_triton.reference.perturbed_linear`; any strides will do.

    Args:
        out: [P, N, out_features]; with the rest as in :func:`zo_triton.reference.perturbed_linear`.
        base: [N, in_features].
        difference: [P, N, in_features] or None.
        weight: [out_features, in_features], or [in_features, out_features] if ``transposed``.
        base_output: [N, out_features] or None.
        directions: Names the K directions.
        weight_id: The weight's tensor id or -1.
        bias_id: The bias's tensor id or -1.
        signed_eps: [P].
        activation: Its name.
        transposed: The weight and its direction are stored as [in_features, out_features].
        bits: ``"inline"`` (every tile runs the generator), ``"staged"`` (packed signs written first; only
            full-rank Rademacher) or None for :func:`zo_triton.kernels.layer.default_bits`.
        precision: How float32 operands are multiplied, as :mod:`zo_triton.kernels.precision` names it.
        config: Tile sizes and launch options, as in :data:`CONFIGS`.

    Raises:
        TypeError: ``out`` is neither float32 nor bfloat16.
        ValueError: The activation is unknown or lacks its ``base_output``; P is not a multiple of K up to 2K; or
            the bits don't fit the directions.
    """
    _, samples, out_features = out.shape
    in_features = base.shape[1]
    precision = precision_for(out, precision)
    base, weight, folded = fold(out, base, difference, weight, directions, weight_id, signed_eps)
    layer = prepare_layer(
        out, base, difference, weight, base_output, directions, weight_id, bias_id, signed_eps, activation,
        bits, precision, samples,
    )  # fmt: skip
    arguments, weight = dict(layer.arguments), layer.weight
    left_word, right_word = arguments.pop("left_word"), arguments.pop("right_word")
    if transposed:  # the strides make up for W's order; of low rank, U = (BAᵀ)ᵀ: the factors change places
        weight, left_word, right_word = weight.mT, right_word, left_word
    projected = base
    if layer.rank:
        # Nothing is added to W: turned once, its tiles reach the tensor cores without passing registers.
        weight, transposed = weight.contiguous(), False
        carried = None if difference is None else layer.moved
        projected = project(
            base, carried, directions, right_word, layer.rank, sides=layer.sides, dtype=out.dtype,
            precision=precision,
        )  # fmt: skip
    config = config or _chosen_config(out, layer, directions, transposed, precision, activation)
    sample_tiles, feature_tiles = blocks(samples, config["BLOCK_N"]), blocks(out_features, config["BLOCK_F"])
    launch(
        _perturbed_linear_kernel,
        directions.num * feature_tiles * sample_tiles,
        out,
        **arguments,
        weight_ptr=weight,
        projected_ptr=projected,
        left_word=left_word,
        FOLDED=folded,
        TRANSPOSED=transposed,
        samples=samples,
        in_features=in_features,
        out_features=out_features,
        sample_tiles=sample_tiles,
        feature_tiles=feature_tiles,
        **strides("o", "pnf", out),
        **strides("a", "ni", base),
        **strides("d", "pni", layer.moved),
        **strides("w", "fi", weight),
        **strides("z", "nf", layer.before),
        RAGGED=in_features % config["BLOCK_I"] != 0 or in_features == 0,
        SETTLED=chip_of(out) == "sm_90" and not (layer.rank and layer.weight.dtype == torch.bfloat16),
        ALIGNED=gcd(16, in_features, base.stride(0), layer.weight.stride(0), *layer.moved.stride()[:-1]),
        OFFSETS=_offset_dtype(config, out, base, layer.moved, weight, layer.before),
        **config,
    )


def _offset_dtype(config: Mapping[str, int], *tensors: Tensor) -> tl.dtype:
    """The narrowest integer that holds every offset inside a tile; those between tiles are always 64-bit."""
    reach = max(config["BLOCK_N"], config["BLOCK_F"], config["BLOCK_I"])
    widest = max(sum(abs(stride) for stride in tensor.stride()[-2:]) for tensor in tensors)
    return tl.int32 if reach * widest < 2**31 else tl.int64
