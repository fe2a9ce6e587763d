"""Differences of a perturbed convolution, all directions and both their sides in one launch.

Δz = δ*W + sε·(a+δ)*U + sε·v with U, v drawn inside the kernel, then the activation's exact difference: an implicit
GEMM (Chetlur et al., "cuDNN: efficient primitives for deep learning", 2014) one of whose factors is the field. A
program owns one tile of output positions and output channels of a group, of one direction; both sides share its
tile of U. Positions count through (sample, row, column), so small images fill a tile together.

Two orders of the sum: tap by tap over images with their channels last, where a tile is loaded in vectors
(:mod:`zo_triton.kernels.tap_products`); and term by term in the field's order, element by element, for few channels
and where U comes in that order alone (:mod:`zo_triton.kernels.window_products`). A first layer of few channels is a
linear one on patches (:mod:`zo_triton.kernels.first_conv2d`). Of low rank, U = ABᵀ/√r, a sum by taps is δ*W alone,
and a launch beforehand takes (a+δ)*B (see :mod:`zo_triton.kernels.low_rank_conv2d`).

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
from zo_triton.kernels.convolution_tiles import no_wider, order_of, perturbed_tiles, precision_in
from zo_triton.kernels.epilogue import evaluations_of, finish_sides, vector_from
from zo_triton.kernels.field import UNSPECIALISED, as_word, counter_of
from zo_triton.kernels.first_conv2d import is_worth_patches, launch_on_patches
from zo_triton.kernels.folding import fold, fraction_of
from zo_triton.kernels.launch import blocks, chip_of, launch
from zo_triton.kernels.layer import Layer, default_bits, prepare_layer
from zo_triton.kernels.low_rank import add_low_rank
from zo_triton.kernels.low_rank_conv2d import project_windows
from zo_triton.kernels.precision import precision_for
from zo_triton.kernels.tap_products import tap_products
from zo_triton.kernels.window_arguments import (
    channels_last,
    check_window,
    divisor_of,
    offset_dtype,
    pixel_by_pixel,
    window_arguments,
)
from zo_triton.kernels.window_products import depthwise_products, window_products


def _chosen_config(
    out: Tensor,
    layer: Layer,
    directions: Directions,
    order: str,
    channels: int,
    precision: str,
    activation: str,
) -> Mapping[str, int]:
    """The launcher's own config or what was found faster, for a tile of at most so many channels."""
    key = situation(
        "depthwise_conv2d" if order == "depthwise" else "perturbed_conv2d", out.dtype, sides=layer.sides,
        distribution=directions.elementwise, bits="low_rank" if layer.rank else layer.bits,
        channels=upper(channels, 16, 32, 64), order=order, precision=precision,
    )  # fmt: skip
    source = "low_rank" if layer.rank else "signs" if directions.signs else "real"
    own = perturbed_tiles(
        order, layer.sides, out.dtype, source, channels, chip_of(out), precision, activation
    )
    return no_wider(pick(out.device, key, own), order, channels, out.dtype, precision)


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
        out_ptr, base_ptr, difference_ptr, weight_ptr, base_output_ptr, signed_eps_ptr, staged_ptr, projected_ptr,
        positions, out_height, out_width, height, width, out_channels, group_outputs, group_inputs, columns,
        position_tiles, channel_tiles, groups, stride_tg,
        stride_op, stride_on, stride_oc, stride_oy, stride_ox, stride_an, stride_ac, stride_ay, stride_ax,
        stride_dp, stride_dn, stride_dc, stride_dy, stride_dx, stride_zn, stride_zc, stride_zy, stride_zx,
        step_y, step_x, padding_y, padding_x, dilation_y, dilation_x,
        key0, key1, step, first, whole_word, left_word, right_word, bias_word,
        SIDES: tl.constexpr, HAS_DIFFERENCE: tl.constexpr,
        PERTURB_WEIGHT: tl.constexpr, PERTURB_BIAS: tl.constexpr, ACTIVATION: tl.constexpr,
        DISTRIBUTION: tl.constexpr, ROUNDS: tl.constexpr, RANK: tl.constexpr, RANK_BLOCK: tl.constexpr,
        STAGED: tl.constexpr, FOLDED: tl.constexpr, DTYPE: tl.constexpr, PRECISION: tl.constexpr,
        KERNEL_HEIGHT: tl.constexpr, KERNEL_WIDTH: tl.constexpr, DEPTHWISE: tl.constexpr, BY_TAPS: tl.constexpr,
        PADDED: tl.constexpr, RAGGED: tl.constexpr, SETTLED: tl.constexpr, DIVISOR: tl.constexpr,
        OFFSETS: tl.constexpr,
        BLOCK_N: tl.constexpr, BLOCK_F: tl.constexpr, BLOCK_I: tl.constexpr,
):  # fmt: skip
    """Program = ((direction·groups + group)·channel_tiles + channel tile)·position_tiles + position tile.

    base [N, C, height, width], difference [P, N, C, height, width], weight [O, columns] contiguous, base_output
    [N, O, out_height, out_width], out [P, N, O, out_height, out_width], signed_eps [P], P = SIDES·K; staged
    [K, 4·ceil(O/4), ceil(columns/32)]; projected [groups, P or K, RANK, positions] is, where BY_TAPS, that of
    :func:`zo_triton.kernels.low_rank_conv2d.project_windows`. DEPTHWISE: one input channel a group; a tile then
    spans groups, groups = 1. BY_TAPS: a pixel's channels lie side by side everywhere, and the pixels of out and
    base_output without a gap; columns are [taps, channels] and staged words [taps, ceil(channels/32)]; sizes and
    strides are multiples of DIVISOR. Counters: (block, tensor word, first + k, step).
    """
    pid = tl.program_id(0)
    position_tile = pid % position_tiles
    channel_tile = pid // position_tiles % channel_tiles
    group = pid // position_tiles // channel_tiles % groups
    k = pid // position_tiles // channel_tiles // groups
    counter = counter_of(first + k, step, key0, key1)
    p0, p1, epsilon0, epsilon1 = evaluations_of(k, signed_eps_ptr, SIDES)

    # Triton notices sizes and strides that 16 divides; 8 channels are a vector too.
    group_inputs, columns = group_inputs // DIVISOR * DIVISOR, columns // DIVISOR * DIVISOR
    stride_dp, stride_dn = stride_dp // DIVISOR * DIVISOR, stride_dn // DIVISOR * DIVISOR
    stride_dy, stride_dx = stride_dy // DIVISOR * DIVISOR, stride_dx // DIVISOR * DIVISOR
    stride_an, stride_ay = stride_an // DIVISOR * DIVISOR, stride_ay // DIVISOR * DIVISOR
    stride_ax = stride_ax // DIVISOR * DIVISOR

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
    if BY_TAPS:
        row_words = KERNEL_HEIGHT * KERNEL_WIDTH * ((group_inputs + 31) // 32)
    staged_ptr += tl.cast(k, tl.int64) * padded_rows * row_words
    PROJECTED: tl.constexpr = BY_TAPS and RANK > 0
    DRAWN: tl.constexpr = PERTURB_WEIGHT and not PROJECTED
    if not (HAS_DIFFERENCE or DRAWN):
        change0 = tl.zeros((BLOCK_F, BLOCK_N) if BY_TAPS else (BLOCK_N, BLOCK_F), tl.float32)
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
    elif BY_TAPS:
        # In bfloat16 ε's power of two goes into U, which loses nothing, and its fraction by W and the sums.
        fraction = fraction_of(
            signed_eps_ptr + p0, DTYPE.primitive_bitwidth == 16 and HAS_DIFFERENCE and DRAWN
        )
        skipped = tl.cast(group, tl.int64) * group_inputs
        change0, change1 = tap_products(
            base_ptr + skipped, difference0_ptr + skipped, difference1_ptr + skipped, weight_ptr, staged_ptr,
            (base_rows, difference_rows), corner, channel * columns, channel * row_words,
            (stride_ay, stride_ax), (stride_dy, stride_dx), (height, width), (dilation_y, dilation_x),
            f0 // 4, group_inputs, epsilon0 / fraction, epsilon1 / fraction, 1.0 / fraction,
            as_word(whole_word), counter, SIDES, HAS_DIFFERENCE, DRAWN, DISTRIBUTION,
            ROUNDS, STAGED, FOLDED, DTYPE, PRECISION, KERNEL_HEIGHT, KERNEL_WIDTH, PADDED, RAGGED, SETTLED,
            OFFSETS, BLOCK_N, BLOCK_F, BLOCK_I)  # fmt: skip
        change0, change1 = change0 * fraction, change1 * fraction
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
    if PROJECTED:
        change0, change1 = add_low_rank(
            change0, change1, projected_ptr + tl.cast(group, tl.int64) * stride_tg, k, epsilon0, epsilon1,
            m0, positions, f0 // 4, as_word(left_word), counter, SIDES, HAS_DIFFERENCE, DISTRIBUTION, ROUNDS,
            RANK, RANK_BLOCK, DTYPE, PRECISION, BLOCK_N, BLOCK_F)  # fmt: skip
    bias = tl.zeros((BLOCK_F,), tl.float32)
    if PERTURB_BIAS:
        bias = vector_from(
            f0, out_channels, as_word(bias_word), counter, DISTRIBUTION, ROUNDS, BLOCK_F, DTYPE
        )
    if BY_TAPS:
        # A tile's rows are channels out, side by side, and its columns positions, one after the other.
        local_f = tl.arange(0, BLOCK_F)
        first_place = m0 * tl.cast(out_channels, tl.int64) + f0
        finish_sides(
            change0, change1, bias[:, None], epsilon0, epsilon1, out_ptr + p0 * stride_op + first_place,
            out_ptr + p1 * stride_op + first_place, base_output_ptr + first_place,
            local_f, local_f, out_channels, out_channels, tl.where(local_f >= start, stop, 0), 0, positions - m0,
            SIDES, HAS_DIFFERENCE, PERTURB_BIAS, ACTIVATION, DTYPE, OFFSETS, BLOCK_F, BLOCK_N)  # fmt: skip
    else:
        out_rows = n * stride_on + y * stride_oy + x * stride_ox
        before_rows = n * stride_zn + y * stride_zy + x * stride_zx
        out_ptr += tl.cast(f0, tl.int64) * stride_oc
        before_ptr = base_output_ptr + tl.cast(f0, tl.int64) * stride_zc
        finish_sides(
            change0, change1, bias[None, :], epsilon0, epsilon1, out_ptr + p0 * stride_op, out_ptr + p1 * stride_op,
            before_ptr, out_rows, before_rows, stride_oc, stride_zc, positions - m0, start, stop,
            SIDES, HAS_DIFFERENCE, PERTURB_BIAS, ACTIVATION, DTYPE, OFFSETS, BLOCK_N, BLOCK_F)  # fmt: skip


def _way(
    out: Tensor,
    weight: Tensor,
    weight_id: int,
    directions: Directions,
    groups: int,
    on_patches: bool,
    bits: str | None,
    precision: str | None,
) -> tuple[str, str, str]:
    """How a call sums, where its signs come from and how it multiplies, by what is asked for.

    The order is one of :func:`order_of`'s, or ``"patches"`` for ``"terms"`` if they are worth it.
    """
    low_rank = weight_id >= 0 and directions.is_low_rank(weight.shape)
    bits = bits or default_bits(directions, low_rank, out.shape[1] * out.shape[3] * out.shape[4])
    # A word of drawn signs has 32 of the field's columns, which no tap meets together.
    only_terms = directions.signs and not low_rank and bits == "inline" and weight_id >= 0
    precision = precision_for(out, precision)
    order = order_of(weight.shape, groups, out.dtype, chip_of(out), precision, only_terms)
    if order == "terms" and on_patches:
        order = "patches"
    source = "signs" if directions.signs and not low_rank else "real"
    return order, bits, precision_in(order, precision, source)


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
    precision: str | None = None,
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
        precision: How float32 operands are multiplied, as :mod:`zo_triton.kernels.precision` names it.
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
    on_patches = config is None and is_worth_patches(out, difference, weight, weight_id, groups)
    order, bits, precision = _way(out, weight, weight_id, directions, groups, on_patches, bits, precision)
    if order == "patches":
        launch_on_patches(
            out, base, weight, base_output, directions, weight_id, bias_id, signed_eps, stride, padding, dilation,
            activation, bits=bits, precision=precision,
        )  # fmt: skip
        return
    by_taps, depthwise, group_outputs = order == "taps", order == "depthwise", out_channels // groups
    result, folded = out, False
    if by_taps:
        out, base = pixel_by_pixel(out), channels_last(base)
        difference = None if difference is None else channels_last(difference)
        base_output = None if base_output is None else pixel_by_pixel(base_output, copied=True)
    if not depthwise:
        base, weight, folded = fold(out, base, difference, weight, directions, weight_id, signed_eps)
    layer = prepare_layer(
        out, base, difference, weight, base_output, directions, weight_id, bias_id, signed_eps, activation,
        bits, precision, positions, by_taps,
    )  # fmt: skip
    # The first tile of a group starts up to three channels early.
    covered = out_channels if depthwise else group_outputs + (3 if groups > 1 and group_outputs % 4 else 0)
    config = config or _chosen_config(out, layer, directions, order, covered, precision, activation)
    projected = None
    if by_taps and layer.rank:
        projected = project_windows(
            out[0], base, difference, weight, directions, layer.arguments["right_word"], stride=stride,
            padding=padding, dilation=dilation, groups=groups, sides=layer.sides, precision=precision,
        )  # fmt: skip
    position_tiles, channel_tiles = blocks(positions, config["BLOCK_N"]), blocks(covered, config["BLOCK_F"])
    tiled_groups = 1 if depthwise else groups
    launch(
        _perturbed_conv2d_kernel,
        directions.num * tiled_groups * channel_tiles * position_tiles,
        out,
        **layer.arguments,
        **window_arguments(out, base, layer, stride, padding, dilation, by_taps),
        projected_ptr=base if projected is None else projected,
        stride_tg=0 if projected is None else projected.stride(0),
        positions=positions,
        columns=columns,
        group_outputs=group_outputs,
        groups=tiled_groups,
        position_tiles=position_tiles,
        channel_tiles=channel_tiles,
        DEPTHWISE=depthwise,
        BY_TAPS=by_taps,
        FOLDED=folded,
        RAGGED=(weight.shape[1] if by_taps else columns) % config["BLOCK_I"] != 0,
        SETTLED=chip_of(out) == "sm_90" and not (layer.rank and layer.weight.dtype == torch.bfloat16),
        DIVISOR=divisor_of(weight.shape[1], base, layer.moved) if by_taps else 1,
        OFFSETS=offset_dtype(out[0], base, layer.moved[0], layer.weight, layer.before),
        **config,
    )
    if out is not result:
        result.copy_(out)
