"""Differences of a perturbed convolution, all directions and both their sides in one launch.

Δz = δ*W + sε·(a+δ)*U + sε·v with U, v drawn inside the kernel, then the activation's exact difference: an implicit
GEMM (Chetlur et al., "cuDNN: efficient primitives for deep learning", 2014) whose second factor is the field. A
program owns one tile [output positions, output channels of a group] of one direction; both sides share its tile
of U. Positions count through (sample, row, column), so small images fill a tile together.

The field's blocks cover four output channels. Where a group starts inside a block, its first tile starts at the
block's first channel, and what belongs to the group before is not stored.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import triton
import triton.language as tl
from torch import Tensor

from zo_triton.directions import Directions, matrix_shape
from zo_triton.kernels.choices import pick, situation, upper
from zo_triton.kernels.epilogue import evaluations_of, finish_sides, vector_from
from zo_triton.kernels.field import UNSPECIALISED, as_word, counter_of
from zo_triton.kernels.folding import fold, fraction_of
from zo_triton.kernels.launch import blocks, chip_of, launch
from zo_triton.kernels.layer import Layer, prepare_layer, tiles
from zo_triton.kernels.numeric import INTERPRETED
from zo_triton.kernels.window_arguments import check_window, offset_dtype, window_arguments
from zo_triton.kernels.window_products import depthwise_products, window_products

CONFIGS = {
    # (sides, compute dtype): positions × channels × terms of a program's tiles, warps, stages; none timed yet.
    (1, torch.bfloat16): tiles(128, 64, 32, 8, 2),
    (2, torch.bfloat16): tiles(128, 64, 32, 8, 2),
    (1, torch.float32): tiles(64, 64, 32, 8, 1),
    (2, torch.float32): tiles(32, 32, 32, 8, 1),
}
OVERRIDES = {
    "sm_80": {(2, torch.bfloat16): tiles(64, 64, 32, 8, 2)},
    # With two stages ptxas takes eight bytes of stack there, and more clocks.
    "sm_100": dict.fromkeys([(1, torch.bfloat16), (2, torch.bfloat16)], tiles(128, 64, 32, 8, 1)),
    "gfx942": dict.fromkeys([(1, torch.bfloat16), (2, torch.bfloat16)], tiles(64, 64, 32, 8, 1)),
}
"""Chips that the configs above don't fit."""

DEPTHWISE_CONFIG = tiles(64, 16, 32, 4, 1)
INTERPRETER_CONFIG = tiles(128, 32, 64, warps=4, stages=1)
INTERPRETER_DEPTHWISE_CONFIG = tiles(128, 16, 32, warps=4, stages=1)

SMALLEST_CHANNELS = 16
"""Of a tile: what a dot asks for."""


def default_config(sides: int, dtype: torch.dtype, depthwise: bool, chip: str) -> Mapping[str, int]:
    """Tile sizes and launch options unless the caller says."""
    if INTERPRETED:
        return INTERPRETER_DEPTHWISE_CONFIG if depthwise else INTERPRETER_CONFIG
    return DEPTHWISE_CONFIG if depthwise else {**CONFIGS, **OVERRIDES.get(chip, {})}[sides, dtype]


def no_wider(config: Mapping[str, int], channels: int) -> dict[str, int]:
    """A config with no more channels a tile than a group has use for."""
    wanted = max(SMALLEST_CHANNELS, int(triton.next_power_of_2(channels)))
    return {**config, "BLOCK_F": min(config["BLOCK_F"], wanted)}


def _chosen_config(
    out: Tensor, layer: Layer, directions: Directions, depthwise: bool, channels: int
) -> Mapping[str, int]:
    """The launcher's own config or what was found faster, for a tile of at most so many channels."""
    key = situation(
        "depthwise_conv2d" if depthwise else "perturbed_conv2d", out.dtype, sides=layer.sides,
        distribution=directions.elementwise, bits="low_rank" if layer.rank else layer.bits,
        channels=upper(channels, 16, 32),
    )  # fmt: skip
    own = default_config(layer.sides, out.dtype, depthwise, chip_of(out))
    return no_wider(pick(out.device, key, own), channels)


@triton.jit
def _channels_of(
    group, channel_tile, group_outputs, out_channels, DEPTHWISE: tl.constexpr, BLOCK_F: tl.constexpr
):
    """A tile's first channel f0, and start, stop: f0 + start … f0 + stop - 1 are its group's."""
    if DEPTHWISE:
        f0, start = channel_tile * BLOCK_F, 0
        stop = out_channels - f0
    else:
        f0 = group * group_outputs // 4 * 4 + channel_tile * BLOCK_F
        start = group * group_outputs - f0
        stop = start + group_outputs
    return f0, start, stop


@triton.jit(do_not_specialize=UNSPECIALISED)
def _perturbed_conv2d_kernel(
        out_ptr, base_ptr, difference_ptr, weight_ptr, base_output_ptr, signed_eps_ptr, staged_ptr,
        positions, out_height, out_width, height, width, out_channels, group_outputs, group_inputs, columns,
        position_tiles, channel_tiles, groups,
        stride_op, stride_on, stride_oc, stride_oy, stride_ox, stride_an, stride_ac, stride_ay, stride_ax,
        stride_dp, stride_dn, stride_dc, stride_dy, stride_dx, stride_zn, stride_zc, stride_zy, stride_zx,
        step_y, step_x, padding_y, padding_x, dilation_y, dilation_x,
        key0, key1, step, first, whole_word, left_word, right_word, bias_word,
        SIDES: tl.constexpr, HAS_DIFFERENCE: tl.constexpr,
        PERTURB_WEIGHT: tl.constexpr, PERTURB_BIAS: tl.constexpr, ACTIVATION: tl.constexpr,
        DISTRIBUTION: tl.constexpr, ROUNDS: tl.constexpr, RANK: tl.constexpr, RANK_BLOCK: tl.constexpr,
        STAGED: tl.constexpr, FOLDED: tl.constexpr, DTYPE: tl.constexpr, PRECISION: tl.constexpr,
        KERNEL_HEIGHT: tl.constexpr, KERNEL_WIDTH: tl.constexpr, DEPTHWISE: tl.constexpr,
        PADDED: tl.constexpr, RAGGED: tl.constexpr, OFFSETS: tl.constexpr,
        BLOCK_N: tl.constexpr, BLOCK_F: tl.constexpr, BLOCK_I: tl.constexpr,
):  # fmt: skip
    """Program = ((direction·groups + group)·channel_tiles + channel tile)·position_tiles + position tile.

    base [N, C, height, width], difference [P, N, C, height, width], weight [O, columns] contiguous, base_output
    [N, O, out_height, out_width], out [P, N, O, out_height, out_width], signed_eps [P], P = SIDES·K; staged
    [K, 4·ceil(O/4), ceil(columns/32)]. DEPTHWISE: one input channel a group; a tile then spans groups, groups = 1.
    Counters: (block, tensor word, first + k, step).
    """
    pid = tl.program_id(0)
    position_tile = pid % position_tiles
    channel_tile = pid // position_tiles % channel_tiles
    group = pid // position_tiles // channel_tiles % groups
    k = pid // position_tiles // channel_tiles // groups
    counter = counter_of(first + k, step, key0, key1)
    p0, p1, epsilon0, epsilon1 = evaluations_of(k, signed_eps_ptr, SIDES)

    f0, start, stop = _channels_of(group, channel_tile, group_outputs, out_channels, DEPTHWISE, BLOCK_F)
    # Rows beyond the edge read the last one instead: never stored, and no load needs a mask for them.
    channel = tl.minimum(f0 + tl.arange(0, BLOCK_F), out_channels - 1).to(OFFSETS)

    m0 = tl.cast(position_tile, OFFSETS) * BLOCK_N
    position = tl.minimum(m0 + tl.arange(0, BLOCK_N), positions - 1)
    area = tl.cast(out_height, OFFSETS) * out_width
    n, y, x = position // area, position % area // out_width, position % out_width
    corner = (y * step_y - padding_y, x * step_x - padding_x)
    base_rows = n * stride_an + corner[0] * stride_ay + corner[1] * stride_ax
    difference_rows = n * stride_dn + corner[0] * stride_dy + corner[1] * stride_dx
    difference0_ptr, difference1_ptr = difference_ptr + p0 * stride_dp, difference_ptr + p1 * stride_dp
    row_words, padded_rows = (columns + 31) // 32, (out_channels + 3) // 4 * 4
    staged_ptr += tl.cast(k, tl.int64) * padded_rows * row_words
    if not (HAS_DIFFERENCE or PERTURB_WEIGHT):
        change0 = tl.zeros((BLOCK_N, BLOCK_F), tl.float32)
        change1 = change0
    elif DEPTHWISE:
        change0, change1 = depthwise_products(
            base_ptr, difference0_ptr, difference1_ptr, weight_ptr, staged_ptr,
            (base_rows, difference_rows), corner, channel // group_outputs, channel * columns, channel * row_words,
            (stride_ac, stride_ay, stride_ax), (stride_dc, stride_dy, stride_dx),
            (height, width), (dilation_y, dilation_x), f0 // 4, columns, epsilon0, epsilon1,
            (whole_word, left_word, right_word), counter, SIDES, HAS_DIFFERENCE, PERTURB_WEIGHT, DISTRIBUTION,
            ROUNDS, RANK, RANK_BLOCK, STAGED, DTYPE, KERNEL_WIDTH, PADDED, OFFSETS,
            BLOCK_N, BLOCK_F, BLOCK_I)  # fmt: skip
    else:
        fraction = fraction_of(signed_eps_ptr, FOLDED)
        skipped = tl.cast(group, tl.int64) * group_inputs
        change0, change1 = window_products(
            base_ptr + skipped * stride_ac, difference0_ptr + skipped * stride_dc,
            difference1_ptr + skipped * stride_dc, weight_ptr, staged_ptr,
            (base_rows, difference_rows), corner, channel * columns, channel * row_words,
            (stride_ac, stride_ay, stride_ax), (stride_dc, stride_dy, stride_dx),
            (height, width), (dilation_y, dilation_x), f0 // 4, columns, epsilon0 / fraction, epsilon1 / fraction,
            (whole_word, left_word, right_word), counter, SIDES, HAS_DIFFERENCE, PERTURB_WEIGHT, DISTRIBUTION,
            ROUNDS, RANK, RANK_BLOCK, STAGED, FOLDED, DTYPE, PRECISION, KERNEL_HEIGHT, KERNEL_WIDTH, PADDED, RAGGED,
            OFFSETS, BLOCK_N, BLOCK_F, BLOCK_I)  # fmt: skip
        if FOLDED:
            change0, change1 = change0 * fraction, change1 * fraction
    bias = tl.zeros((BLOCK_F,), tl.float32)
    if PERTURB_BIAS:
        bias = vector_from(
            f0, out_channels, as_word(bias_word), counter, DISTRIBUTION, ROUNDS, BLOCK_F, DTYPE
        )
    out_rows = n * stride_on + y * stride_oy + x * stride_ox
    before_rows = n * stride_zn + y * stride_zy + x * stride_zx
    out_ptr += tl.cast(f0, tl.int64) * stride_oc
    before_ptr = base_output_ptr + tl.cast(f0, tl.int64) * stride_zc
    finish_sides(
        change0, change1, bias[None, :], epsilon0, epsilon1, out_ptr + p0 * stride_op, out_ptr + p1 * stride_op,
        before_ptr, out_rows, before_rows, stride_oc, stride_zc, positions - m0, start, stop,
        SIDES, HAS_DIFFERENCE, PERTURB_BIAS, ACTIVATION, DTYPE, OFFSETS, BLOCK_N, BLOCK_F)  # fmt: skip


def launch_perturbed_conv2d(
    out: Tensor,
    base: Tensor,
    difference: Tensor | None,
    weight: Tensor,
    base_output: Tensor | None,
    directions: Directions,
    weight_id: int,
    bias_id: int,
    signed_eps: Tensor,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    activation: str,
    *,
    bits: str | None = None,
    precision: str = "ieee",
    config: Mapping[str, int] | None = None,
) -> None:
    """Difference of ``activation(conv2d(x, W) + v)`` for every evaluation.

    Shapes and meaning are those of :func:`zo_triton.reference.perturbed_conv2d`; any strides will do.

    Args:
        out: [P, N, O, H', W']; with the rest as in :func:`zo_triton.reference.perturbed_conv2d`.
        base: [N, C, H, W].
        difference: [P, N, C, H, W] or None.
        weight: [O, C / groups, kernel height, kernel width].
        base_output: [N, O, H', W'] or None.
        directions: Names the K directions.
        weight_id: The weight's tensor id or -1.
        bias_id: The bias's tensor id or -1.
        signed_eps: [P].
        stride: Of the window.
        padding: Zeros on each side.
        dilation: Of the kernel.
        groups: Into which the channels fall.
        activation: Its name.
        bits: ``"inline"`` (every tile runs the generator), ``"staged"`` (packed signs written first; only
            full-rank Rademacher) or None for :func:`zo_triton.kernels.layer.default_bits` with positions for
            samples.
        precision: How float32 operands are multiplied: ``"ieee"`` or ``"tf32x3"``.
        config: Tile sizes and launch options, as in :data:`CONFIGS`.

    Raises:
        TypeError: ``out`` is neither float32 nor bfloat16.
        ValueError: The activation is unknown or lacks its ``base_output``; P is not a multiple of K up to 2K;
            the channels don't fall into such groups; ``out`` is not what the window leaves of ``base``; or the
            bits don't fit the directions.
    """
    check_window(out, base, weight, stride, padding, dilation, groups)
    out_channels, columns = matrix_shape(weight.shape)
    positions = out.shape[1] * out.shape[3] * out.shape[4]
    depthwise, group_outputs = groups > 1 and weight.shape[1] == 1, out_channels // groups
    folded = False
    if not depthwise:
        base, weight, folded = fold(out, base, difference, weight, directions, weight_id, signed_eps)
    layer = prepare_layer(
        out, base, difference, weight, base_output, directions, weight_id, bias_id, signed_eps, activation,
        bits, precision, positions,
    )  # fmt: skip
    # The first tile of a group starts up to three channels early.
    covered = out_channels if depthwise else group_outputs + (3 if groups > 1 and group_outputs % 4 else 0)
    config = config or _chosen_config(out, layer, directions, depthwise, covered)
    position_tiles, channel_tiles = blocks(positions, config["BLOCK_N"]), blocks(covered, config["BLOCK_F"])
    tiled_groups = 1 if depthwise else groups
    launch(
        _perturbed_conv2d_kernel,
        directions.num * tiled_groups * channel_tiles * position_tiles,
        out,
        **layer.arguments,
        **window_arguments(out, base, layer, stride, padding, dilation),
        positions=positions,
        columns=columns,
        group_outputs=group_outputs,
        groups=tiled_groups,
        position_tiles=position_tiles,
        channel_tiles=channel_tiles,
        DEPTHWISE=depthwise,
        FOLDED=folded,
        RAGGED=columns % config["BLOCK_I"] != 0,
        OFFSETS=offset_dtype(out[0], base, layer.moved[0], layer.weight, layer.before),
        **config,
    )
