"""A layer whose directions have low rank, U = A·Bᵀ/√r: U @ x is two thin products, and U never exists.

What is left of a layer's work is W @ δ: one product with weights that all directions share.
"""

from __future__ import annotations

import numpy as np
import torch
from numba import float32, uintp
from torch import Tensor

from zo_triton.cpu.arrays import as_array, draw_factors, draw_several
from zo_triton.cpu.compiling import device, kernel
from zo_triton.cpu.layer import Layer, carry, difference_or_none, finish, gather, product_buffer
from zo_triton.cpu.signs import line_of_floats
from zo_triton.cpu.vectors import LANES, dense_rows
from zo_triton.directions import PART_WHOLE


def run_low_rank(layer: Layer, start: int, stop: int) -> None:
    """Directions start … stop - 1: their factors are drawn together, W @ δ comes a few evaluations at a time."""
    d, (rows, inner) = layer.directions[start:stop], layer.weight.shape
    rank = d.rank if layer.weight_id >= 0 and d.rank is not None else 0
    left, right = torch.zeros(d.num, _fours(rows), rank), torch.zeros(d.num, _fours(rank), inner)
    if rank:
        columns, others = draw_factors(d, layer.weight_id, (rows, inner), layer.dtype)
        left[:, :rows], right[:, :rank] = columns, others.transpose(1, 2)
    bias = torch.zeros(d.num, 1, rows)
    if layer.bias_id >= 0:
        bias = draw_several(d, layer.bias_id, PART_WHOLE, (1, rows), layer.dtype)
    carried = layer.difference is not None
    group = layer.group(d.num) if carried else d.num
    product = product_buffer(layer, group)
    arrays = as_array(difference_or_none(layer)), as_array(product)
    for first in range(start, stop, group):
        last = min(stop, first + group)
        if carried:
            carry(product, layer, first, last, d.num)
        these = slice(first - start, last - start)
        _kernel(
            layer.out, *arrays, layer.base, _array(left[these]), _array(right[these]), _array(bias[these, 0]),
            layer.samples, *layer.terms, layer.kind, layer.signed_eps, layer.sides, first,
        )  # fmt: skip


def _fours(count: int) -> int:
    return (count + 3) // 4 * 4


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.contiguous().numpy()


@kernel
def _kernel(
    out, difference, product, base, left, right, bias, samples, a, first_term, second_term, kind, signed_eps, sides,
    first,
):  # fmt: skip
    """Directions from ``first`` on, one for each of the factors.

    base: float32 runs, [⌈N/32⌉, at least in, 32]. left: A/√r [directions, rows rounded up to fours, r]. right: Bᵀ
    [directions, r rounded up to fours, in]. bias [directions, rows]. product: W @ δ of their evaluations, or empty.
    """
    rows, inner, carried = bias.shape[1], right.shape[2], product.shape[0] > 0
    x = np.zeros((inner if carried else 0, LANES), np.float32)
    small = np.zeros((right.shape[1], LANES), np.float32)
    totals = line_of_floats(left.shape[1] * LANES)
    totals[:] = float32(0.0)
    sums = totals.reshape(1, left.shape[1], LANES)
    for k in range(left.shape[0]):
        for side in range(sides if carried else 1):
            p = (first + k) * sides + side
            for run in range(base.shape[0]):
                sample = run * LANES
                lanes = min(LANES, samples - sample)
                inputs_at = uintp(base[run].ctypes.data)
                if carried:
                    gather(x, base[run], difference[p], inner, sample, samples)
                    inputs_at = uintp(x.ctypes.data)
                if left.shape[2] > 0:
                    _product(uintp(small.ctypes.data), right[k], inputs_at)
                    _product(uintp(totals.ctypes.data), left[k], uintp(small.ctypes.data))
                if carried:
                    moved = product[k * sides + side]
                    finish(
                        out[p], moved, True, sums[:, :rows], bias[k], signed_eps[p], sample, lanes,
                        a, first_term, second_term, kind,
                    )  # fmt: skip
                    continue
                for s in range(sides):
                    finish(
                        out[p + s], out[p + s], False, sums[:, :rows], bias[k], signed_eps[p + s], sample, lanes,
                        a, first_term, second_term, kind,
                    )  # fmt: skip


@device
def _product(out_at, matrix, x_at):
    """``out = matrix @ x`` for 32 lanes; matrix float32 [a multiple of four rows, cols]."""
    rows, cols = matrix.shape
    matrix_at = uintp(matrix.ctypes.data)
    for row in range(0, rows, 4):
        shift = uintp(row)
        dense_rows(out_at + shift * uintp(4 * LANES), matrix_at + shift * uintp(4 * cols), cols, x_at, cols)
