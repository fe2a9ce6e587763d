"""A layer whose directions have low rank, U = A·Bᵀ/√r: U @ x is two thin products, and U never exists.

What is left of a layer's work is W @ δ: one product with weights that all directions share.
"""

from __future__ import annotations

import numpy as np
import torch
from numba import float32, uintp

from zo_triton.cpu.arrays import as_array, draw_factors, draw_several
from zo_triton.cpu.bfloat16 import pack_run, pair_product
from zo_triton.cpu.compiling import device, kernel
from zo_triton.cpu.layer import Layer, carry, difference_or_none, finish, gather, product_buffer
from zo_triton.cpu.signs import line_of_floats
from zo_triton.cpu.vectors import LANES, dense_rows
from zo_triton.directions import PART_WHOLE


def run_low_rank(layer: Layer, start: int, stop: int) -> None:
    """Directions start … stop - 1: their factors are drawn together, W @ δ comes a few evaluations at a time."""
    d, (rows, inner) = layer.directions[start:stop], layer.weight.shape
    if layer.weight_id >= 0 and d.rank is not None:
        left, right = draw_factors(d, layer.weight_id, (rows, inner), layer.dtype)
    else:
        left, right = torch.empty(d.num, rows, 0), torch.empty(d.num, inner, 0)
    if layer.bias_id >= 0:
        bias = draw_several(d, layer.bias_id, PART_WHOLE, (1, rows), layer.dtype)
    else:
        bias = torch.zeros(d.num, 1, rows)
    factors = left.numpy(), right.numpy(), bias.numpy()
    in_groups = layer.difference is not None and not layer.inline_product
    group = layer.group(d.num) if in_groups else d.num
    product = product_buffer(layer, group)
    arrays = as_array(difference_or_none(layer)), as_array(product), layer.packed
    for first in range(start, stop, group):
        last = min(stop, first + group)
        if in_groups:
            carry(product, layer, first, last, d.num)
        these = slice(first - start, last - start)
        _kernel(
            layer.out, *arrays, layer.base, *(factor[these] for factor in factors),
            layer.samples, *layer.terms, layer.kind, layer.signed_eps, layer.sides, first,
        )  # fmt: skip


@kernel
def _kernel(
    out, difference, product, packed, base, left, right, bias, samples, a, first_term, second_term, kind,
    signed_eps, sides, first,
):  # fmt: skip
    """Directions from ``first`` on, one for each of the factors.

    base: float32 runs, [⌈N/32⌉, at least in, 32]. left: A/√r [directions, rows, r]. right: B [directions, in, r];
    r is 0 where the weight is not trained. bias [directions, 1, rows]. product: W @ δ of their evaluations,
    scratch for it if W is ``packed``, or empty in a first layer.
    """
    rows, inner, rank = left.shape[1], right.shape[1], left.shape[2]
    carried, inline = product.shape[0] > 0, packed.shape[0] > 0
    x = np.zeros((inner if carried else 0, LANES), np.float32)
    pairs = np.zeros((packed.shape[1], LANES), np.uint32)
    columns = np.zeros(((rows + 3) // 4 * 4, rank), np.float32)
    turned = np.zeros(((rank + 3) // 4 * 4, inner), np.float32)
    small = np.zeros((turned.shape[0], LANES), np.float32)
    totals = line_of_floats(columns.shape[0] * LANES)
    totals[:] = float32(0.0)
    sums = totals.reshape(1, columns.shape[0], LANES)
    for k in range(left.shape[0]):
        columns[:rows] = left[k]
        for j in range(rank):
            for column in range(inner):
                turned[j, column] = right[k, column, j]
        for side in range(sides if carried else 1):
            p = (first + k) * sides + side
            for run in range(base.shape[0]):
                sample = run * LANES
                lanes = min(LANES, samples - sample)
                inputs_at = uintp(base[run].ctypes.data)
                if carried:
                    gather(x, base[run], difference[p], inner, sample, samples)
                    inputs_at = uintp(x.ctypes.data)
                if rank > 0:
                    _product(uintp(small.ctypes.data), turned, inputs_at)
                    _product(uintp(totals.ctypes.data), columns, uintp(small.ctypes.data))
                if inline:
                    pack_run(pairs, difference[p], inner, sample, samples)
                    pair_product(product[0], 0, packed, pairs)
                if carried:
                    q, column = (0, 0) if inline else (k * sides + side, sample)
                    finish(
                        out[p], product[q], column, True, sums[:, :rows], bias[k, 0], signed_eps[p], sample, lanes,
                        a, first_term, second_term, kind,
                    )  # fmt: skip
                    continue
                for s in range(sides):
                    finish(
                        out[p + s], out[p + s], sample, False, sums[:, :rows], bias[k, 0], signed_eps[p + s],
                        sample, lanes, a, first_term, second_term, kind,
                    )  # fmt: skip


@device
def _product(out_at, matrix, x_at):
    """``out = matrix @ x`` for 32 lanes; matrix float32 [a multiple of four rows, cols]."""
    rows, cols = matrix.shape
    matrix_at = uintp(matrix.ctypes.data)
    for row in range(0, rows, 4):
        shift = uintp(row)
        dense_rows(out_at + shift * uintp(4 * LANES), matrix_at + shift * uintp(4 * cols), cols, x_at, cols)
