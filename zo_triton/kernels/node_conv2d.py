"""Differences of a convolution whose outputs are perturbed, all evaluations in one launch: δ * W + sε·ξ.

The implicit GEMM of :mod:`zo_triton.kernels.conv2d` with the weight alone for its second factor, the same for all
directions: the images of all evaluations follow one another, and a tile of W serves whatever positions meet it.

A sample's nodes are its channels' positions, one channel after the other: words of signs run along a tile's rows.
So that a word is of one image, an image takes a whole number of runs of successive positions, the last filled up.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import triton
import triton.language as tl
from torch import Tensor

from zo_triton.directions import Directions
from zo_triton.kernels.arguments import check_arguments, strides
from zo_triton.kernels.choices import pick, situation, upper
from zo_triton.kernels.convolution_tiles import no_wider, node_tiles, order_of
from zo_triton.kernels.epilogue import finish_sides
from zo_triton.kernels.field import as_word, counter_of
from zo_triton.kernels.launch import blocks, chip_of, compute_dtype, launch
from zo_triton.kernels.node_signs import (
    NODE_UNSPECIALISED,
    drawn_signs,
    flipped,
    node_arguments,
    turned_by_entries,
)
from zo_triton.kernels.numeric import complement
from zo_triton.kernels.precision import precision_for
from zo_triton.kernels.tap_products import tap_products
from zo_triton.kernels.window_arguments import (
    channels_last,
    check_window,
    divisor_of,
    matrix_of,
    offset_dtype,
    window_of,
)
from zo_triton.kernels.window_products import depthwise_products, window_products

RUNS = (32, 16, 8, 4)
"""Positions that a word of signs is drawn for."""

MOST_FILLED = 1 / 8
"""Of an image's places: a longer run is worth no more of them that are no positions."""


def run_length(area: int) -> int:
    """How many positions share a word: the longest run that fills up few places."""
    return next((run for run in RUNS if -area % run <= MOST_FILLED * area), RUNS[-1])


def _chosen_config(
    out: Tensor, directions: Directions, order: str, channels: int, precision: str, activation: str
) -> Mapping[str, int]:
    """The launcher's own config or what was found faster, for a tile of at most so many channels."""
    op = "depthwise_node_conv2d" if order == "depthwise" else "node_conv2d"
    key = situation(
        op, out.dtype, distribution=directions.distribution, channels=upper(channels, 16, 32, 64), order=order,
        precision=precision,
    )  # fmt: skip
    own = node_tiles(order, out.dtype, channels, chip_of(out), precision, activation)
    return no_wider(pick(out.device, key, own), order, channels, out.dtype, precision)


@triton.jit
def _noise(
        epsilon, sample, position, channel, area, nodes, word, column, counter,
        ROUNDS: tl.constexpr, WHOLE_WORDS: tl.constexpr,
        RUN: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    """sε·ξ in float32, [ROWS, COLS]: RUN rows from ``position`` on of each run, and a column a channel.

    epsilon, sample, position and the counter's direction [ROWS/RUN], channel [COLS].
    """
    node = channel.to(tl.uint32)[None, :] * tl.cast(area, tl.uint32) + position.to(tl.uint32)[:, None]
    direction, step, key0, key1 = counter
    own = (direction[:, None], step, key0, key1)
    signs = drawn_signs(sample[:, None], node, nodes, word, own, ROUNDS, WHOLE_WORDS)
    signs = turned_by_entries(signs, node, column, own, ROUNDS)
    lanes = tl.arange(0, RUN).to(tl.uint32)
    flips = (complement(signs)[:, None, :] >> lanes[None, :, None]) << 31
    return tl.reshape(flipped(epsilon[:, None, None], flips), (ROWS, COLS))


@triton.jit(do_not_specialize=NODE_UNSPECIALISED)
def _node_conv2d_kernel(
        out_ptr, difference_ptr, weight_ptr, base_output_ptr, signed_eps_ptr,
        images, samples, places, out_height, out_width, height, width, out_channels, group_outputs, group_inputs,
        columns, place_tiles, channel_tiles, groups,
        stride_on, stride_oc, stride_oy, stride_ox, stride_dn, stride_dc, stride_dy, stride_dx,
        stride_zn, stride_zc, stride_zy, stride_zx,
        step_y, step_x, padding_y, padding_x, dilation_y, dilation_x,
        key0, key1, step, first, node_word, column,
        SIDES: tl.constexpr, ACTIVATION: tl.constexpr, ROUNDS: tl.constexpr,
        DTYPE: tl.constexpr, PRECISION: tl.constexpr, KERNEL_HEIGHT: tl.constexpr, KERNEL_WIDTH: tl.constexpr,
        DEPTHWISE: tl.constexpr, BY_TAPS: tl.constexpr, PADDED: tl.constexpr, RAGGED: tl.constexpr,
        DIVISOR: tl.constexpr, WHOLE_WORDS: tl.constexpr, RUN: tl.constexpr, OFFSETS: tl.constexpr,
        BLOCK_N: tl.constexpr, BLOCK_F: tl.constexpr, BLOCK_I: tl.constexpr,
):  # fmt: skip
    """Program = (group·channel_tiles + channel tile)·place_tiles + place tile.

    Place i is position i % places of image i // places, of which those from out_height·out_width on are none;
    image p·samples + n is sample n of evaluation p: out [images, O, out_height, out_width], difference [images, C,
    height, width], base_output [samples, O, out_height, out_width], weight [O, columns] contiguous, signed_eps [P].
    DEPTHWISE: one input channel a group; a tile then spans groups, groups = 1. WHOLE_WORDS: no run crosses a word.
    BY_TAPS: a pixel's channels lie side by side, columns are [taps, channels], strides multiples of DIVISOR.
    """
    # As in the other kernel: 8 channels are a vector too.
    group_inputs, columns = group_inputs // DIVISOR * DIVISOR, columns // DIVISOR * DIVISOR
    stride_dn, stride_dy = stride_dn // DIVISOR * DIVISOR, stride_dy // DIVISOR * DIVISOR
    stride_dx = stride_dx // DIVISOR * DIVISOR
    pid = tl.program_id(0)
    place_tile = pid % place_tiles
    channel_tile = pid // place_tiles % channel_tiles
    group = pid // place_tiles // channel_tiles
    f0 = group * group_outputs + channel_tile * BLOCK_F
    stop = tl.minimum((group + 1) * group_outputs, out_channels) - f0
    if DEPTHWISE:
        f0 = channel_tile * BLOCK_F
        stop = out_channels - f0
    # What lies beyond an edge reads what lies there instead: never stored, and no load needs a mask for it.
    channel = tl.minimum(f0 + tl.arange(0, BLOCK_F), out_channels - 1).to(OFFSETS)

    area = out_height * out_width
    m0 = tl.cast(place_tile, tl.int64) * BLOCK_N
    image0 = m0 // places
    place = (m0 - image0 * places).to(tl.int32) + tl.arange(0, BLOCK_N)
    image = tl.minimum(image0 + place // places, images - 1)
    exists = (image0 + place // places < images) & (place % places < area)
    position = tl.minimum(place % places, area - 1).to(OFFSETS)
    local = (image - image0).to(OFFSETS)
    y, x = position // out_width, position % out_width
    corner = (y * step_y - padding_y, x * step_x - padding_x)
    difference_ptr += image0 * stride_dn
    rows = local * stride_dn + corner[0] * stride_dy + corner[1] * stride_dx
    input_strides = (stride_dc, stride_dy, stride_dx)
    nothing = (0, 0, 0)
    if DEPTHWISE:
        change, _ = depthwise_products(
            difference_ptr, difference_ptr, difference_ptr, weight_ptr, weight_ptr,
            (rows, rows), corner, channel // group_outputs, channel * columns, channel,
            input_strides, input_strides, (height, width), (dilation_y, dilation_x), 0, columns, 0.0, 0.0,
            nothing, nothing, 1, True, False, "none", ROUNDS, 0, 0, False, DTYPE, KERNEL_WIDTH, PADDED, OFFSETS,
            BLOCK_N, BLOCK_F, BLOCK_I)  # fmt: skip
    elif BY_TAPS:
        own_ptr = difference_ptr + tl.cast(group, tl.int64) * group_inputs
        change, _ = tap_products(
            own_ptr, own_ptr, own_ptr, weight_ptr, weight_ptr, (rows, rows), corner, channel * columns, channel,
            input_strides[1:], input_strides[1:], (height, width), (dilation_y, dilation_x),
            0, group_inputs, 0.0, 0.0, 1.0, 0, nothing, 1, True, False, "none", ROUNDS, False, False,
            DTYPE, PRECISION, KERNEL_HEIGHT, KERNEL_WIDTH, PADDED, RAGGED, False, OFFSETS,
            BLOCK_N, BLOCK_F, BLOCK_I)  # fmt: skip
        change = tl.trans(change)
    else:
        own_ptr = difference_ptr + tl.cast(group, tl.int64) * group_inputs * stride_dc
        change, _ = window_products(
            own_ptr, own_ptr, own_ptr, weight_ptr, weight_ptr,
            (rows, rows), corner, channel * columns, channel,
            input_strides, input_strides, (height, width), (dilation_y, dilation_x), 0, columns, 0.0, 0.0,
            nothing, nothing, 1, True, False, "none", ROUNDS, 0, 0, False, False, DTYPE, PRECISION,
            KERNEL_HEIGHT, KERNEL_WIDTH, PADDED, RAGGED, OFFSETS, BLOCK_N, BLOCK_F, BLOCK_I)  # fmt: skip

    start = (m0 - image0 * places).to(tl.int32) + RUN * tl.arange(0, BLOCK_N // RUN)
    run_image = tl.minimum(image0 + start // places, images - 1)
    p = (run_image // samples).to(tl.int32)
    change += _noise(
        tl.load(signed_eps_ptr + p), (run_image % samples).to(tl.uint32), start % places, channel, area,
        out_channels * area, as_word(node_word), as_word(column), counter_of(first + p // SIDES, step, key0, key1),
        ROUNDS, WHOLE_WORDS, RUN, BLOCK_N, BLOCK_F)  # fmt: skip
    sample = (image % samples).to(OFFSETS)
    out_ptr += image0 * stride_on + tl.cast(f0, tl.int64) * stride_oc
    before_ptr = base_output_ptr + tl.cast(f0, tl.int64) * stride_zc
    # No prefix of the rows is stored, but those that exist: each has a bound of its own.
    finish_sides(
        change, change, tl.zeros((1, BLOCK_F), tl.float32), 0.0, 0.0, out_ptr, out_ptr, before_ptr,
        local * stride_on + y * stride_oy + x * stride_ox, sample * stride_zn + y * stride_zy + x * stride_zx,
        stride_oc, stride_zc, tl.where(exists, BLOCK_N, 0), 0, stop,
        1, True, False, ACTIVATION, DTYPE, OFFSETS, BLOCK_N, BLOCK_F)  # fmt: skip


def node_conv2d(
    out: Tensor,
    difference: Tensor,
    weight: Tensor,
    base_output: Tensor | None,
    directions: Directions,
    application: int,
    first: int,
    signed_eps: Tensor,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    activation: str,
    *,
    precision: str | None = None,
    config: Mapping[str, int] | None = None,
) -> None:
    """Difference of ``activation(conv2d(x, W) + noise)`` for every evaluation.

    Args:
        out: [P, N, O, H', W']; with the rest as in :func:`zo_triton.reference.node_conv2d`.
        difference: [P, N, C, H, W].
        weight: [O, C / groups, kernel height, kernel width].
        base_output: [N, O, H', W'] or None.
        directions: Names the K directions.
        application: Number of the layer's application in the closure.
        first: Column index of its first node.
        signed_eps: [P].
        stride: Of the window.
        padding: Zeros on each side.
        dilation: Of the kernel.
        groups: Into which the channels fall.
        activation: Its name.
        precision: How float32 operands are multiplied, as :mod:`zo_triton.kernels.precision` names it.
        config: Tile sizes and launch options, as in :data:`CONFIGS`.

    Raises:
        TypeError: ``out`` is neither float32 nor bfloat16.
        ValueError: The activation is unknown or lacks its ``base_output``; P is not a multiple of K up to 2K; the
            channels don't fall into such groups; ``out`` is not what the window leaves of the difference; or nodes
            are not perturbed by this distribution.
    """
    dtype, precision = compute_dtype(out.dtype), precision_for(out, precision)
    sides = check_arguments(out, base_output, directions, signed_eps, activation)
    check_window(out, difference[0], weight, stride, padding, dilation, groups)
    noise = node_arguments(directions, application, first)
    # The images of all evaluations are to follow one another.
    adjoining = out.stride(0) == out.shape[1] * out.stride(1)
    result = out if adjoining else torch.empty_like(out, memory_format=torch.contiguous_format)
    order = order_of(weight.shape, groups, out.dtype, chip_of(out), precision)
    depthwise, by_taps = order == "depthwise", order == "taps"
    moved = difference.to(out.dtype)
    images, moved = result.flatten(0, 1), (channels_last(moved) if by_taps else moved).flatten(0, 1)
    weight = weight.to(out.dtype)
    before = result[0] if base_output is None else base_output
    out_channels, (columns, area) = weight.shape[0], (weight[0].numel(), out.shape[3] * out.shape[4])
    group_outputs = out_channels // groups
    covered = out_channels if depthwise else group_outputs
    config = config or _chosen_config(out, directions, order, covered, precision, activation)
    run = run_length(area)
    places = run * blocks(area, run)
    place_tiles = blocks(len(images) * places, config["BLOCK_N"])
    channel_tiles = blocks(covered, config["BLOCK_F"])
    tiled_groups = 1 if depthwise else groups
    launch(
        _node_conv2d_kernel,
        tiled_groups * channel_tiles * place_tiles,
        out,
        out_ptr=images,
        difference_ptr=moved,
        weight_ptr=matrix_of(weight, by_taps),
        base_output_ptr=before,
        signed_eps_ptr=signed_eps.contiguous(),
        images=len(images),
        samples=out.shape[1],
        places=places,
        group_outputs=group_outputs,
        columns=columns,
        place_tiles=place_tiles,
        channel_tiles=channel_tiles,
        groups=tiled_groups,
        **window_of(images, moved, weight, stride, padding, dilation),
        **strides("o", "ncyx", images),
        **strides("d", "ncyx", moved),
        **strides("z", "ncyx", before),
        **noise,
        SIDES=sides,
        ACTIVATION=activation,
        DTYPE=dtype,
        PRECISION=precision,
        DEPTHWISE=depthwise,
        BY_TAPS=by_taps,
        RAGGED=(weight.shape[1] if by_taps else columns) % config["BLOCK_I"] != 0,
        DIVISOR=divisor_of(weight.shape[1], moved) if by_taps else 1,
        WHOLE_WORDS=area % run == 0,
        RUN=run,
        OFFSETS=_offset_dtype(images[: config["BLOCK_N"] // max(1, places) + 2], moved, weight, before),
        **config,
    )
    if result is not out:
        out.copy_(result)


def _offset_dtype(images: Tensor, moved: Tensor, weight: Tensor, before: Tensor) -> tl.dtype:
    """The narrowest integer for offsets within the images that a tile meets; those between tiles are 64-bit."""
    return offset_dtype(images, moved[: len(images)], weight, before)
