"""What frames the products of a perturbed layer: the evaluations a program serves, and what follows for each.

That is the bias, the activation's exact difference, and the store. A tile is finished a quarter of its columns at
a time: the intermediates of an activation on a whole tile, beside the other side's accumulator, are more than the
registers hold.
"""

from __future__ import annotations

import triton
import triton.language as tl

from zo_triton.kernels.activation import activation_change
from zo_triton.kernels.field import draw_tile
from zo_triton.kernels.numeric import narrow
from zo_triton.kernels.orthogonal import first_column_of, row_of, shared_philox, turned_sign


@triton.jit
def evaluations_of(k, signed_eps_ptr, SIDES: tl.constexpr):
    """Where direction k's evaluations stand, int64, and their sε; one and the same twice where it has one side."""
    p0, p1 = tl.cast(k, tl.int64) * SIDES, tl.cast(k, tl.int64) * SIDES + SIDES - 1
    return p0, p1, tl.load(signed_eps_ptr + p0), tl.load(signed_eps_ptr + p1)


@triton.jit
def vector_tile(
        start, cols, word, counter,
        DISTRIBUTION: tl.constexpr, ROUNDS: tl.constexpr, SIZE: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """[SIZE] elements of a vector (a matrix of one row) in float32; start and SIZE are multiples of 32."""
    tile = draw_tile(tl.arange(0, 1), start, cols, word, counter, DISTRIBUTION, ROUNDS, 4, SIZE, DTYPE)
    return tl.sum(tl.where(tl.arange(0, 4)[:, None] == 0, tile.to(tl.float32), 0.0), axis=0)


@triton.jit
def vector_from(
        start, cols, word, counter,
        DISTRIBUTION: tl.constexpr, ROUNDS: tl.constexpr, SIZE: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """[SIZE] elements of a vector in float32 from any start: a group need not begin at a word of signs."""
    if DISTRIBUTION == "rademacher":
        element = (start + tl.arange(0, SIZE)).to(tl.uint32)
        word0, _, _, _ = shared_philox(element // 32, word, counter, ROUNDS)
        sign = (word0 >> (element % 32)) & 1
        if counter[0].dtype.primitive_bitwidth == 64:
            sign = turned_sign(sign, row_of(counter, ROUNDS), first_column_of(word) + element, counter)
        return tl.where(sign == 1, 1.0, -1.0)
    else:
        return vector_tile(start, cols, word, counter, DISTRIBUTION, ROUNDS, SIZE, DTYPE)


@triton.jit
def _halves(tile, ROWS: tl.constexpr, COLS: tl.constexpr):
    """Left and right half of a [ROWS, COLS] tile."""
    return tl.split(tl.permute(tl.reshape(tile, (ROWS, 2, COLS // 2)), (0, 2, 1)))


@triton.jit
def _finish_part(
        change, bias, epsilon, out_ptr, before_ptr, out_rows, before_rows, stride_of, stride_zf,
        samples, start, stop, PERTURB_BIAS: tl.constexpr, ACTIVATION: tl.constexpr,
        DTYPE: tl.constexpr, OFFSETS: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
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
def _finish(
        change, bias, epsilon, out_ptr, before_ptr, out_rows, before_rows, stride_of, stride_zf,
        samples, start, stop, PERTURB_BIAS: tl.constexpr, ACTIVATION: tl.constexpr,
        DTYPE: tl.constexpr, OFFSETS: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    """One evaluation's tile, a quarter of its columns at a time.

    change [ROWS, COLS], bias [1, COLS] or [ROWS, 1]; out_rows and before_rows [ROWS]: where a row starts behind
    out_ptr and before_ptr.
    """
    left, right = _halves(change, ROWS, COLS)
    part0, part1 = _halves(left, ROWS, COLS // 2)
    part2, part3 = _halves(right, ROWS, COLS // 2)
    parts = (part0, part1, part2, part3)
    if bias.shape[1] == 1:
        biases = (bias, bias, bias, bias)
    else:
        bias_left, bias_right = _halves(bias, 1, COLS)
        bias0, bias1 = _halves(bias_left, 1, COLS // 2)
        bias2, bias3 = _halves(bias_right, 1, COLS // 2)
        biases = (bias0, bias1, bias2, bias3)
    for part in tl.static_range(4):
        column = tl.full((), part * (COLS // 4), tl.int64)
        _finish_part(
            parts[part], biases[part], epsilon, out_ptr + column * stride_of, before_ptr + column * stride_zf,
            out_rows, before_rows, stride_of, stride_zf, samples,
            start - part * (COLS // 4), stop - part * (COLS // 4),
            PERTURB_BIAS, ACTIVATION, DTYPE, OFFSETS, ROWS, COLS // 4)  # fmt: skip


@triton.jit
def finish_sides(
        change0, change1, bias, epsilon0, epsilon1, out0_ptr, out1_ptr, before_ptr, out_rows, before_rows,
        stride_of, stride_zf, samples, start, stop, SIDES: tl.constexpr, HAS_DIFFERENCE: tl.constexpr,
        PERTURB_BIAS: tl.constexpr, ACTIVATION: tl.constexpr, DTYPE: tl.constexpr, OFFSETS: tl.constexpr,
        ROWS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    """Finishes a direction's evaluations, change0 and change1 [ROWS, COLS], bias [1, COLS] or [ROWS, 1].

    Without a difference both changes are still the product alone, to be scaled by sε. out_rows and before_rows
    [ROWS]: where a row starts behind the pointers; rows below ``samples`` and columns start … stop - 1 are stored.
    """
    if not HAS_DIFFERENCE:
        change0, change1 = change0 * epsilon0, change1 * epsilon1
    _finish(
        change0, bias, epsilon0, out0_ptr, before_ptr, out_rows, before_rows, stride_of, stride_zf,
        samples, start, stop, PERTURB_BIAS, ACTIVATION, DTYPE, OFFSETS, ROWS, COLS)  # fmt: skip
    if SIDES == 2:
        _finish(
            change1, bias, epsilon1, out1_ptr, before_ptr, out_rows, before_rows, stride_of, stride_zf,
            samples, start, stop, PERTURB_BIAS, ACTIVATION, DTYPE, OFFSETS, ROWS, COLS)  # fmt: skip
