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

from zo_triton.directions import PART_WHOLE, Directions, tensor_word
from zo_triton.kernels.arguments import check_arguments, check_bits, default_bits, field_constants, strides
from zo_triton.kernels.epilogue import finish, vector_tile
from zo_triton.kernels.field import (
    UNSPECIALISED,
    as_word,
    counter_arguments,
    counter_of,
    signed,
    word_arguments,
)
from zo_triton.kernels.launch import blocks, compute_dtype, launch
from zo_triton.kernels.numeric import INTERPRETED
from zo_triton.kernels.philox import philox
from zo_triton.kernels.stage import stage
from zo_triton.kernels.window_products import depthwise_products, window_products


def _tiles(positions: int, channels: int, terms: int, warps: int, stages: int) -> dict[str, int]:
    tiles = {"BLOCK_M": positions, "BLOCK_F": channels, "BLOCK_I": terms}
    return {**tiles, "num_warps": warps, "num_stages": stages}


CONFIGS = {
    # (sides, compute dtype): positions × channels × terms of a program's tiles, warps, stages; none timed yet.
    (1, torch.bfloat16): _tiles(128, 64, 32, 8, 2),
    (2, torch.bfloat16): _tiles(128, 64, 32, 8, 2),
    (1, torch.float32): _tiles(64, 64, 32, 8, 1),
    (2, torch.float32): _tiles(32, 32, 32, 8, 1),
}
DEPTHWISE_CONFIG = _tiles(64, 16, 32, 4, 1)
INTERPRETER_CONFIG = _tiles(128, 32, 64, warps=4, stages=1)
INTERPRETER_DEPTHWISE_CONFIG = _tiles(128, 16, 32, warps=4, stages=1)

SMALLEST_CHANNELS = 16
"""Of a tile: what a dot asks for."""


def default_config(sides: int, dtype: torch.dtype, channels: int, depthwise: bool) -> dict[str, int]:
    """Tile sizes and launch options unless the caller says: no more channels than a group has use for."""
    if INTERPRETED:
        config = INTERPRETER_DEPTHWISE_CONFIG if depthwise else INTERPRETER_CONFIG
    else:
        config = DEPTHWISE_CONFIG if depthwise else CONFIGS[sides, dtype]
    wanted = max(SMALLEST_CHANNELS, int(triton.next_power_of_2(channels)))
    return {**config, "BLOCK_F": min(config["BLOCK_F"], wanted)}


@triton.jit
def _vector_from(
    start,
    cols,
    word,
    counter,
    DISTRIBUTION: tl.constexpr,
    ROUNDS: tl.constexpr,
    SIZE: tl.constexpr,
    DTYPE: tl.constexpr,
):
    """[SIZE] elements of a vector in float32 from any start: a group need not begin at a word of signs."""
    if DISTRIBUTION == "rademacher":
        element = (start + tl.arange(0, SIZE)).to(tl.uint32)
        direction, step, key0, key1 = counter
        word0, _, _, _ = philox(element // 32, word, direction, step, key0, key1, ROUNDS)
        return tl.where((word0 >> (element % 32)) & 1 == 1, 1.0, -1.0)
    else:
        return vector_tile(start, cols, word, counter, DISTRIBUTION, ROUNDS, SIZE, DTYPE)


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
        STAGED: tl.constexpr, DTYPE: tl.constexpr, PRECISION: tl.constexpr,
        KERNEL_HEIGHT: tl.constexpr, KERNEL_WIDTH: tl.constexpr, DEPTHWISE: tl.constexpr,
        PADDED: tl.constexpr, RAGGED: tl.constexpr, OFFSETS: tl.constexpr,
        BLOCK_M: tl.constexpr, BLOCK_F: tl.constexpr, BLOCK_I: tl.constexpr,
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
    p0, p1 = tl.cast(k, tl.int64) * SIDES, tl.cast(k, tl.int64) * SIDES + SIDES - 1
    epsilon0, epsilon1 = tl.load(signed_eps_ptr + p0), tl.load(signed_eps_ptr + p1)

    # Channels f0 … f0 + BLOCK_F - 1; those from start to stop belong to this tile's group.
    if DEPTHWISE:
        f0, start = channel_tile * BLOCK_F, 0
        stop = out_channels - f0
    else:
        f0 = group * group_outputs // 4 * 4 + channel_tile * BLOCK_F
        start = group * group_outputs - f0
        stop = start + group_outputs
    # Rows beyond the edge read the last one instead: never stored, and no load needs a mask for them.
    channel = tl.minimum(f0 + tl.arange(0, BLOCK_F), out_channels - 1).to(OFFSETS)

    m0 = tl.cast(position_tile, OFFSETS) * BLOCK_M
    position = tl.minimum(m0 + tl.arange(0, BLOCK_M), positions - 1)
    area = tl.cast(out_height, OFFSETS) * out_width
    n, y, x = position // area, position % area // out_width, position % out_width
    corner = (y * step_y - padding_y, x * step_x - padding_x)
    base_rows = n * stride_an + corner[0] * stride_ay + corner[1] * stride_ax
    difference_rows = n * stride_dn + corner[0] * stride_dy + corner[1] * stride_dx
    difference0_ptr, difference1_ptr = difference_ptr + p0 * stride_dp, difference_ptr + p1 * stride_dp
    row_words, padded_rows = (columns + 31) // 32, (out_channels + 3) // 4 * 4
    staged_ptr += tl.cast(k, tl.int64) * padded_rows * row_words
    if not (HAS_DIFFERENCE or PERTURB_WEIGHT):
        change0 = tl.zeros((BLOCK_M, BLOCK_F), tl.float32)
        change1 = change0
    elif DEPTHWISE:
        change0, change1 = depthwise_products(
            base_ptr, difference0_ptr, difference1_ptr, weight_ptr, staged_ptr,
            (base_rows, difference_rows), corner, channel // group_outputs, channel * columns, channel * row_words,
            (stride_ac, stride_ay, stride_ax), (stride_dc, stride_dy, stride_dx),
            (height, width), (dilation_y, dilation_x), f0 // 4, columns, epsilon0, epsilon1,
            (whole_word, left_word, right_word), counter, SIDES, HAS_DIFFERENCE, PERTURB_WEIGHT, DISTRIBUTION,
            ROUNDS, RANK, RANK_BLOCK, STAGED, DTYPE, KERNEL_WIDTH, PADDED, OFFSETS,
            BLOCK_M, BLOCK_F, BLOCK_I)  # fmt: skip
    else:
        skipped = tl.cast(group, tl.int64) * group_inputs
        change0, change1 = window_products(
            base_ptr + skipped * stride_ac, difference0_ptr + skipped * stride_dc,
            difference1_ptr + skipped * stride_dc, weight_ptr, staged_ptr,
            (base_rows, difference_rows), corner, channel * columns, channel * row_words,
            (stride_ac, stride_ay, stride_ax), (stride_dc, stride_dy, stride_dx),
            (height, width), (dilation_y, dilation_x), f0 // 4, columns, epsilon0, epsilon1,
            (whole_word, left_word, right_word), counter, SIDES, HAS_DIFFERENCE, PERTURB_WEIGHT, DISTRIBUTION,
            ROUNDS, RANK, RANK_BLOCK, STAGED, DTYPE, PRECISION, KERNEL_HEIGHT, KERNEL_WIDTH, PADDED, RAGGED,
            OFFSETS, BLOCK_M, BLOCK_F, BLOCK_I)  # fmt: skip
    if not HAS_DIFFERENCE:
        change0, change1 = change0 * epsilon0, change1 * epsilon1
    bias = tl.zeros((BLOCK_F,), tl.float32)
    if PERTURB_BIAS:
        bias = _vector_from(
            f0, out_channels, as_word(bias_word), counter, DISTRIBUTION, ROUNDS, BLOCK_F, DTYPE
        )
    out_rows = n * stride_on + y * stride_oy + x * stride_ox
    before_rows = n * stride_zn + y * stride_zy + x * stride_zx
    out_ptr += tl.cast(f0, tl.int64) * stride_oc
    before_ptr = base_output_ptr + tl.cast(f0, tl.int64) * stride_zc
    finish(change0, bias[None, :], epsilon0, out_ptr + p0 * stride_op, before_ptr,
            out_rows, before_rows, stride_oc, stride_zc, positions - m0, start, stop,
            PERTURB_BIAS, ACTIVATION, DTYPE, OFFSETS, BLOCK_M, BLOCK_F)  # fmt: skip
    if SIDES == 2:
        finish(change1, bias[None, :], epsilon1, out_ptr + p1 * stride_op, before_ptr,
                out_rows, before_rows, stride_oc, stride_zc, positions - m0, start, stop,
                PERTURB_BIAS, ACTIVATION, DTYPE, OFFSETS, BLOCK_M, BLOCK_F)  # fmt: skip


def perturbed_conv2d(
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
) -> None:
    """Difference of ``activation(conv2d(x, W) + v)`` for every evaluation, with the default tiles and bits.

    Shapes and meaning are those of :func:`zo_triton.reference.perturbed_conv2d`; any strides will do.

    Raises:
        TypeError: ``out`` is neither float32 nor bfloat16.
        ValueError: The activation is unknown or lacks its ``base_output``; P is not a multiple of K up to 2K;
            the channels don't fall into such groups; or ``out`` is not what the window leaves of ``base``.
    """
    launch_perturbed_conv2d(
        out, base, difference, weight, base_output, directions, weight_id, bias_id, signed_eps, stride, padding,
        dilation, groups, activation,
    )  # fmt: skip


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
    """:func:`perturbed_conv2d` with the choices that measurements make.

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
            full-rank Rademacher) or None for the same rule as the linear layer's, a position being a sample.
        precision: How float32 operands are multiplied: ``"ieee"`` or ``"tf32x3"``.
        config: Tile sizes and launch options, as in :data:`CONFIGS`.

    Raises:
        TypeError: As :func:`perturbed_conv2d`.
        ValueError: As :func:`perturbed_conv2d`; or the bits don't fit the directions.
    """
    dtype = compute_dtype(out.dtype)
    sides = check_arguments(out, base_output, directions, signed_eps, activation)
    _check_window(out, base, weight, stride, padding, dilation, groups)
    out_channels, group_inputs, *kernel = weight.shape
    columns, positions = weight[0].numel(), out.shape[1] * out.shape[3] * out.shape[4]
    depthwise, group_outputs = groups > 1 and group_inputs == 1, out_channels // groups
    perturbed = weight_id >= 0
    rank = directions.rank or 0 if perturbed and directions.is_low_rank(weight.shape) else 0
    bits = check_bits(bits or default_bits(directions, bool(rank), positions), directions, rank)
    # The first tile of a group starts up to three channels early.
    covered = out_channels if depthwise else group_outputs + (3 if groups > 1 and group_outputs % 4 else 0)
    config = config or default_config(sides, out.dtype, covered, depthwise)
    position_tiles, channel_tiles = blocks(positions, config["BLOCK_M"]), blocks(covered, config["BLOCK_F"])
    programs = directions.num * (1 if depthwise else groups) * channel_tiles * position_tiles
    staged = None
    if bits == "staged" and perturbed and programs:
        staged = stage(directions, weight_id, out_channels, columns, out.device)
    if difference is not None:
        difference = difference.to(out.dtype)
        weight = weight.to(out.dtype)
    moved = base[None] if difference is None else difference
    before = out[0] if base_output is None else base_output
    launch(
        _perturbed_conv2d_kernel,
        programs,
        out,
        out_ptr=out,
        base_ptr=base,
        difference_ptr=moved,
        weight_ptr=weight.reshape(out_channels, columns).contiguous(),
        base_output_ptr=before,
        signed_eps_ptr=signed_eps.contiguous(),
        staged_ptr=base if staged is None else staged,
        positions=positions,
        out_height=out.shape[3],
        out_width=out.shape[4],
        height=base.shape[2],
        width=base.shape[3],
        out_channels=out_channels,
        group_outputs=group_outputs,
        group_inputs=group_inputs,
        columns=columns,
        position_tiles=position_tiles,
        channel_tiles=channel_tiles,
        groups=1 if depthwise else groups,
        **strides("o", "pncyx", out),
        **strides("a", "ncyx", base),
        **strides("d", "pncyx", moved),
        **strides("z", "ncyx", before),
        **_window_arguments(stride, padding, dilation),
        **counter_arguments(directions),
        **word_arguments(weight_id),
        bias_word=signed(tensor_word(bias_id, PART_WHOLE)) if bias_id >= 0 else 0,
        SIDES=sides,
        HAS_DIFFERENCE=difference is not None,
        PERTURB_WEIGHT=perturbed,
        PERTURB_BIAS=bias_id >= 0,
        ACTIVATION=activation,
        **field_constants(directions, rank),
        STAGED=staged is not None,
        DTYPE=dtype,
        PRECISION=precision,
        KERNEL_HEIGHT=kernel[0],
        KERNEL_WIDTH=kernel[1],
        DEPTHWISE=depthwise,
        PADDED=max(padding) > 0,
        RAGGED=columns % config["BLOCK_I"] != 0,
        OFFSETS=_offset_dtype(out[0], base, moved[0], weight, before),
        **config,
    )


def _window_arguments(stride: list[int], padding: list[int], dilation: list[int]) -> dict[str, int]:
    named = {"step": stride, "padding": padding, "dilation": dilation}
    return {
        f"{name}_{axis}": value
        for name, pair in named.items()
        for axis, value in zip("yx", pair, strict=True)
    }


def _offset_dtype(*tensors: Tensor) -> tl.dtype:
    """The narrowest integer that holds every offset inside one evaluation; those between them are 64-bit."""
    reach = max(
        sum(abs(stride) * size for stride, size in zip(tensor.stride(), tensor.shape, strict=True))
        for tensor in tensors
    )
    return tl.int32 if 2 * reach < 2**31 else tl.int64


def _check_window(
    out: Tensor,
    base: Tensor,
    weight: Tensor,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
) -> None:
    """Refuses shapes that don't belong together: a kernel would read where nothing is."""
    out_channels, group_inputs, *kernel = weight.shape
    if groups < 1 or base.shape[1] != groups * group_inputs or out_channels % groups:
        raise ValueError(
            f"{groups} groups of a weight with shape {tuple(weight.shape)} need {groups * group_inputs} input "
            f"channels and a multiple of {groups} output channels, got base with shape {tuple(base.shape)}."
        )
    area = [
        (size + 2 * pad - spread * (width - 1) - 1) // step + 1
        for size, pad, spread, width, step in zip(
            base.shape[2:], padding, dilation, kernel, stride, strict=True
        )
    ]
    if list(out.shape[1:]) != [base.shape[0], out_channels, *area] or min(area) < 0:
        raise ValueError(
            f"a window of {tuple(kernel)} with stride {stride}, padding {padding} and dilation {dilation} leaves "
            f"{area} of base with shape {tuple(base.shape)}, but out has shape {tuple(out.shape)}."
        )
