"""What follows the products of a perturbed linear layer: bias, the activation's exact difference, the store.

A tile is finished a quarter of its columns at a time. The intermediates of an activation on a whole tile,
beside the other side's accumulator, are more than the registers hold.
"""

from __future__ import annotations

import triton
import triton.language as tl

from zo_triton.kernels.activation import activation_change
from zo_triton.kernels.field import draw_tile
from zo_triton.kernels.numeric import narrow


@triton.jit
def vector_tile(
    start,
    cols,
    word,
    counter,
    DISTRIBUTION: tl.constexpr,
    ROUNDS: tl.constexpr,
    SIZE: tl.constexpr,
    DTYPE: tl.constexpr,
):
    """[SIZE] elements of a vector (a matrix of one row) in float32; start and SIZE are multiples of 32."""
    tile = draw_tile(tl.arange(0, 1), start, cols, word, counter, DISTRIBUTION, ROUNDS, 4, SIZE, DTYPE)
    return tl.sum(tl.where(tl.arange(0, 4)[:, None] == 0, tile.to(tl.float32), 0.0), axis=0)


@triton.jit
def _halves(tile, ROWS: tl.constexpr, COLS: tl.constexpr):
    """Left and right half of a [ROWS, COLS] tile."""
    return tl.split(tl.permute(tl.reshape(tile, (ROWS, 2, COLS // 2)), (0, 2, 1)))


@triton.jit
def _finish_part(
    change,
    bias,
    epsilon,
    out_ptr,
    before_ptr,
    out_rows,
    before_rows,
    stride_of,
    stride_zf,
    samples,
    start,
    stop,
    PERTURB_BIAS: tl.constexpr,
    ACTIVATION: tl.constexpr,
    DTYPE: tl.constexpr,
    OFFSETS: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
):
    """Adds sε·v, applies the activation's difference, stores rows below ``samples``, columns start … stop - 1."""
    local_n, local_f = tl.arange(0, ROWS), tl.arange(0, COLS)
    mask = (local_n < samples)[:, None] & ((local_f >= start) & (local_f < stop))[None, :]
    column = local_f.to(OFFSETS)[None, :]
    if PERTURB_BIAS:
        change += epsilon * bias
    if ACTIVATION != "none":
        before = tl.load(before_ptr + before_rows[:, None] + column * stride_zf, mask=mask, other=0.0)
        change = activation_change(before.to(tl.float32), change, ACTIVATION)
    tl.store(out_ptr + out_rows[:, None] + column * stride_of, narrow(change, DTYPE), mask=mask)


@triton.jit
def finish(
    change,
    bias,
    epsilon,
    out_ptr,
    before_ptr,
    out_rows,
    before_rows,
    stride_of,
    stride_zf,
    samples,
    start,
    stop,
    PERTURB_BIAS: tl.constexpr,
    ACTIVATION: tl.constexpr,
    DTYPE: tl.constexpr,
    OFFSETS: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
):
    """One evaluation's tile, a quarter of its columns at a time.

    change [ROWS, COLS], bias [1, COLS]; out_rows and before_rows [ROWS]: where a row starts behind out_ptr and
    before_ptr.
    """
    left, right = _halves(change, ROWS, COLS)
    part0, part1 = _halves(left, ROWS, COLS // 2)
    part2, part3 = _halves(right, ROWS, COLS // 2)
    bias_left, bias_right = _halves(bias, 1, COLS)
    bias0, bias1 = _halves(bias_left, 1, COLS // 2)
    bias2, bias3 = _halves(bias_right, 1, COLS // 2)
    parts = (part0, part1, part2, part3)
    biases = (bias0, bias1, bias2, bias3)
    for part in tl.static_range(4):
        column = tl.full((), part * (COLS // 4), tl.int64)
        _finish_part(
            parts[part], biases[part], epsilon, out_ptr + column * stride_of, before_ptr + column * stride_zf,
            out_rows, before_rows, stride_of, stride_zf, samples,
            start - part * (COLS // 4), stop - part * (COLS // 4),
            PERTURB_BIAS, ACTIVATION, DTYPE, OFFSETS, ROWS, COLS // 4)  # fmt: skip
