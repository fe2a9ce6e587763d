"""A convolution's input as the matrix its kernel multiplies, 32 outputs at a time and never written out whole.

Some samples' input lies padded in a *sheet*; where the window strides, each sheet is taken apart into phases
(every stride-th row and column), so that neighbouring outputs always read neighbouring elements. Column
(channel, i, j) of the patch matrix is then the sheet from ``shifts[column]`` on, the same pattern for all.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numba import types, uintp
from numba.extending import intrinsic

from zo_triton.cpu.compiling import device
from zo_triton.cpu.scalars import load
from zo_triton.cpu.vectors import LANES, WIDTH, load_vector, store_vector

TOGETHER = 512
"""Outputs of one channel that a block holds, if the image has as many: what belongs to it stays in level 2."""


class Geometry(NamedTuple):
    """Sizes of a convolution and of its blocks; ``height`` comes before ``width`` everywhere.

    Attributes:
        channels: C.
        height: Of the input.
        width: Of the input.
        out_height: H'.
        out_width: W'.
        stride_height: Of the window.
        stride_width: Of the window.
        padding_height: Zeros above and below.
        padding_width: Zeros left and right.
        reach: Rows of the padded input that one window covers.
        sheet_height: Rows of a sheet's phase.
        sheet_width: Columns of a sheet's phase.
        samples: In a block.
        band: Rows of the output in a block.
    """

    channels: int
    height: int
    width: int
    out_height: int
    out_width: int
    stride_height: int
    stride_width: int
    padding_height: int
    padding_width: int
    reach: int
    sheet_height: int
    sheet_width: int
    samples: int
    band: int

    @property
    def sheet_size(self) -> int:
        """Elements of one sample's sheet."""
        phases = self.stride_height * self.stride_width
        return self.channels * phases * self.sheet_height * self.sheet_width

    @property
    def lanes(self) -> int:
        """Outputs of one channel in a block."""
        return self.samples * self.band * self.out_width


@lru_cache(maxsize=64)
def plan(
    image: tuple[int, int, int, int],
    result: tuple[int, int],
    window: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    groups: int,
) -> tuple[Geometry, np.ndarray]:
    """The geometry of inputs [N, C, H, W], and the shifts of a group's columns, int64 [C / groups · kh · kw]."""
    count, channels, height, width = image
    sheet_height, sheet_width = (
        -(-(size + 2 * pad) // step) for size, pad, step in zip((height, width), padding, stride, strict=True)
    )
    samples = max(1, min(count, TOGETHER // max(1, result[0] * result[1])))
    pieces = max(1, round(samples * result[0] * result[1] / TOGETHER))
    geometry = Geometry(
        channels, height, width, *result, *stride, *padding, (window[0] - 1) * dilation[0] + 1,
        sheet_height, sheet_width, samples, max(1, -(-result[0] // pieces)),
    )  # fmt: skip
    channel, i, j = np.indices((channels // groups, *window)).reshape(3, -1)
    row, column = i * dilation[0], j * dilation[1]
    phase = (channel * stride[0] + row % stride[0]) * stride[1] + column % stride[1]
    shifts = (phase * sheet_height + row // stride[0]) * sheet_width + column // stride[1]
    return geometry, shifts.astype(np.int64)


@intrinsic
def copy_vector(context, target, source):
    """``target[j] = source[j]`` for 16 lanes, float32 by address."""

    def codegen(context, builder, signature, arguments):
        store_vector(builder, load_vector(builder, arguments[1]), arguments[0])
        return context.get_dummy_value()

    return types.void(types.uintp, types.uintp), codegen


@device
def spread(sheets, x, first, count, top, rows, geometry):
    """Writes the samples first … first + count - 1 of x [N, C, H·W] into the sheets [count, sheet size].

    Only the input rows that the output rows top … top + rows - 1 read. The margins keep the zeros they have.
    """
    g = geometry
    low = max(0, top * g.stride_height - g.padding_height)
    high = min(g.height, (top + rows - 1) * g.stride_height + g.reach - g.padding_height)
    for sample in range(count):
        target = sheets[sample]
        for channel in range(g.channels):
            source = x[first + sample, channel]
            for row in range(low, high):
                padded = row + g.padding_height
                plane = channel * g.stride_height + padded % g.stride_height
                for phase in range(g.stride_width):
                    # The first column of this phase that lies in the image.
                    column = (phase - g.padding_width) % g.stride_width
                    line = (plane * g.stride_width + phase) * g.sheet_height + padded // g.stride_height
                    to = uintp(line * g.sheet_width + (column + g.padding_width) // g.stride_width)
                    start = uintp(row * g.width + column)
                    length = (g.width - column + g.stride_width - 1) // g.stride_width
                    if g.stride_width == 1:
                        for j in range(length):
                            target[to + uintp(j)] = load(source[start + uintp(j)])
                    else:
                        step = uintp(g.stride_width)
                        for j in range(length):
                            target[to + uintp(j)] = load(source[start + uintp(j) * step])


@device
def find_pieces(pieces, counts, lanes, rows, sheet_size, geometry):
    """Cuts a block's outputs into runs of 32 and these into pieces of at most 16 that lie together in the sheets.

    pieces: int64 [runs, 32, 2], each piece's first element in the sheets and first lane, both in bytes.
    counts: int64 [runs]. The block has ``lanes`` outputs, ``rows`` rows of each of its samples.
    """
    width = geometry.out_width
    for run in range((lanes + LANES - 1) // LANES):
        lane, found, last = 0, 0, min(LANES, lanes - run * LANES)
        while lane < last:
            place = run * LANES + lane
            sample, rest = place // (rows * width), place % (rows * width)
            row, column = rest // width, rest % width
            together = rows * width - rest if width == geometry.sheet_width else width - column
            pieces[run, found, 0] = 4 * (sample * sheet_size + row * geometry.sheet_width + column)
            pieces[run, found, 1] = 4 * lane
            lane += min(WIDTH, together, last - lane)
            found += 1
        counts[run] = found


@device
def gather(x, sheets_at, shifts, pieces, count):
    """The patch matrix of one run: x float32 [more than columns, 32], its next row is zeroed in part.

    A piece is copied as a whole vector; what it has too much is overwritten by the piece or the row after it.
    """
    columns = shifts.size
    target = uintp(x.ctypes.data)
    for column in range(columns):
        source = sheets_at + uintp(4 * shifts[column])
        for piece in range(count):
            copy_vector(target + uintp(pieces[piece, 1]), source + uintp(pieces[piece, 0]))
        target += uintp(4 * LANES)
    x[columns, :WIDTH] = np.float32(0.0)
