"""Differences of products of many small matrices: Δ(AB) = ΔA·B + (A + ΔA)·ΔB, in one pass over memory.

Attention that is written out over a few tokens, or for the last one alone, multiplies thousands of pairs of
matrices of some dozen elements. Torch takes such pairs one by one in plain loops, from copies where they do not
lie one behind the other. Here each is read where it lies, by all threads, and both products are added at once.
Differences in bfloat16 are read and written as they are, without a float32 copy of either.
"""

from __future__ import annotations

from math import prod

import numpy as np
import torch
from numba import carray, float32, uintp
from torch import Tensor

from zo_triton._precision import rounds_factors
from zo_triton.cpu.addresses import pointer
from zo_triton.cpu.arrays import as_array
from zo_triton.cpu.compiling import device
from zo_triton.cpu.scalars import load, store
from zo_triton.cpu.sharing import shared
from zo_triton.cpu.threads import together
from zo_triton.cpu.vectors import fma

SMALL = 400
"""Multiplications of a pair from which on torch takes its GEMM, which is quicker than loops."""

GRAIN = 1 << 14
"""Multiplications that a thread takes at a time."""

SMALL_WORK = 1 << 17
"""Multiplications in all below which a second thread costs more than it gives."""

LEFT, LEFT_CHANGE, RIGHT, RIGHT_CHANGE = range(4)
"""Rows of a table of operands."""

_EXAMPLES = {torch.float32: np.empty(0, np.float32), torch.bfloat16: np.empty(0, np.uint16)}
"""By the dtype of differences, what tells a kernel how to read them."""

ADDRESS, EVALUATION, OUTER, INNER, ROW, COLUMN = range(6)
"""Its columns, in bytes: address, and strides over evaluations, the two axes of a batch, and those of a matrix."""


def product_difference(
    left: Tensor,
    left_change: Tensor,
    right: Tensor,
    right_change: Tensor,
    dtype: torch.dtype = torch.float32,
) -> Tensor | None:
    """Same contract as ``ops.product_difference``; None for what is not small, or in another dtype.

    The sums run through the inner axis in order, the first product's by multiply-adds and the second's not: as
    torch's GEMM takes ΔA·B, whose rows are many, and as its loops take the other.
    """
    bases, changes = (left, right), (left_change, right_change)
    batch, (rows, inner), columns = left.shape[:-2], left.shape[-2:], right.shape[-1]
    evaluations, work = left_change.shape[0], rows * inner * columns
    if not 0 < work < SMALL or rounds_factors():
        return None
    if right.shape[:-2] != batch or len(batch) not in (1, 2):
        return None
    if any(each.dtype != torch.float32 for each in bases) or any(
        each.is_neg() for each in (*bases, *changes)
    ):
        return None
    if not {dtype, *(each.dtype for each in changes)} <= _EXAMPLES.keys():
        return None
    kind = left_change.dtype if left_change.dtype == right_change.dtype else torch.float32
    out = torch.empty((evaluations, *batch, rows, columns), dtype=dtype, device="cpu")
    operands = left, left_change.to(kind), right, right_change.to(kind)
    places = np.array([_place(each, len(batch)) for each in operands], np.int64)
    matrices = prod(batch[1:])
    items, work = evaluations * batch[0], work * matrices
    target = as_array(out.view(items, matrices, rows, columns))
    grain, alone = max(1, GRAIN // max(1, work)), items * work < SMALL_WORK
    together(_move_products, (target, places, _EXAMPLES[kind], batch[0], inner), items, grain, alone)
    return out


def _place(tensor: Tensor, axes: int) -> tuple[int, ...]:
    """A row of the table; a base has no evaluations, and a batch may have one axis alone."""
    *outer, row, column = tensor.stride()
    if len(outer) == axes:
        outer = [0, *outer]
    if axes == 1:
        outer = [*outer, 0]
    return tensor.data_ptr(), *(tensor.element_size() * stride for stride in (*outer, row, column))


@shared
def _move_products(out, places, like, members, inner, start, stop):
    """Items are evaluations times ``members`` of a batch's first axis; out [items, second axis, rows, columns].

    like: an array of the differences' dtype.
    """
    _, matrices, rows, columns = out.shape
    for item in range(start, stop):
        for second in range(matrices):
            a, da, b, db = _starts(places, item // members, item % members, second)
            target = out[item, second]
            for i in range(rows):
                for j in range(0, columns, 4):
                    sums = _four_sums(a, da, b, db, places, like, inner, j, columns - 1)
                    for k in range(min(4, columns - j)):
                        store(target, (i, j + k), sums[k])
                a, da = a + places[LEFT, ROW], da + places[LEFT_CHANGE, ROW]


@device
def _starts(places, evaluation, member, second):
    """Where the four matrices of a pair begin."""
    return (
        _start(places[LEFT], evaluation, member, second),
        _start(places[LEFT_CHANGE], evaluation, member, second),
        _start(places[RIGHT], evaluation, member, second),
        _start(places[RIGHT_CHANGE], evaluation, member, second),
    )


@device
def _start(place, evaluation, member, second):
    return place[ADDRESS] + evaluation * place[EVALUATION] + member * place[OUTER] + second * place[INNER]


@device
def _four_sums(a, da, b, db, places, like, inner, j, last):
    """A row's products with the columns j … j + 3, of which those after the ``last`` stand for it."""
    width, moved_width = places[RIGHT, COLUMN], places[RIGHT_CHANGE, COLUMN]
    j1, j2, j3 = min(j + 1, last), min(j + 2, last), min(j + 3, last)
    f0, f1, f2, f3 = float32(0.0), float32(0.0), float32(0.0), float32(0.0)
    s0, s1, s2, s3 = float32(0.0), float32(0.0), float32(0.0), float32(0.0)
    for _ in range(inner):
        change = _change(da, like)
        moved = _value(a) + change
        f0 = fma(change, _value(b + j * width), f0)
        f1 = fma(change, _value(b + j1 * width), f1)
        f2 = fma(change, _value(b + j2 * width), f2)
        f3 = fma(change, _value(b + j3 * width), f3)
        s0 += moved * _change(db + j * moved_width, like)
        s1 += moved * _change(db + j1 * moved_width, like)
        s2 += moved * _change(db + j2 * moved_width, like)
        s3 += moved * _change(db + j3 * moved_width, like)
        a, da = a + places[LEFT, COLUMN], da + places[LEFT_CHANGE, COLUMN]
        b, db = b + places[RIGHT, ROW], db + places[RIGHT_CHANGE, ROW]
    return f0 + s0, f1 + s1, f2 + s2, f3 + s3


@device
def _value(address):
    return carray(pointer(uintp(address)), 1, np.float32)[0]


@device
def _change(address, like):
    return load(carray(pointer(uintp(address)), 1, like.dtype)[0])
