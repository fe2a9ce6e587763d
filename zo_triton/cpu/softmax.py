"""Exact differences of softmax and log_softmax along rows.

With p = softmax(a) and m = Σ p·expm1(δ): Δp = p·(expm1(δ) − m)/(1 + m), Δlog p = δ − log1p(m). Where some δ is
long or m comes near −1 the change is of order one; subtracting in float64 is the accurate way then.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from llvmlite import ir
from numba import float32, float64, types, uintp
from numba.core import cgutils
from numba.extending import intrinsic
from torch import Tensor

from zo_triton.cpu.compiling import device, routine
from zo_triton.cpu.scalars import EXPM1, SHORT, expm1
from zo_triton.cpu.sharing import shared
from zo_triton.cpu.threads import together
from zo_triton.cpu.vectors import WIDTH, load_vector, store_vector

GRAIN_ELEMENTS = 1 << 14
"""Elements that a thread takes at a time, in whole rows."""

_LONG, _NEARLY_ALL, _HUGE = np.float32(30.0), np.float32(-0.5), np.float32(1e6)


def softmax_difference(shares: Tensor, scores: Tensor, change: Tensor, logarithm: bool) -> Tensor | None:
    """Δ softmax, or Δ log_softmax, along the last axis; None for what is not float32.

    Args:
        shares: softmax(scores).
        scores: [*shape].
        change: δ, [P, *shape].
        logarithm: Which of the two.

    Returns:
        [P, *shape].
    """
    if not all(each.dtype == torch.float32 for each in (shares, scores, change)) or not change.numel():
        return None
    columns = shares.shape[-1]
    source = change.contiguous().view(-1, columns)
    out = torch.empty(change.shape, dtype=torch.float32, device="cpu")
    still, fixed = (each.detach().contiguous().view(-1, columns).numpy() for each in (shares, scores))
    arguments = out.view(-1, columns).numpy(), source.numpy(), still, fixed, -1, 1, logarithm
    together(move_rows, arguments, source.shape[0], max(1, GRAIN_ELEMENTS // columns))
    return out


@intrinsic
def _short_terms(context, terms, change, shares, count):
    """``terms[j] = shares[j]·expm1(change[j])`` and their sum; not a number where a change is not short.

    Up to :data:`SHORT` it is what ``expm1`` makes of them, without the steps that only longer ones need. All by
    address, float32 [count·16].
    """

    def codegen(context, builder, signature, arguments):
        terms, change, shares, count = arguments
        floats, words = ir.VectorType(ir.FloatType(), WIDTH), ir.VectorType(ir.IntType(32), WIDTH)
        kind = ir.FunctionType(floats, [floats] * 3)
        multiply_add = cgutils.get_or_insert_function(builder.module, kind, f"llvm.fma.v{WIDTH}f32")
        total, largest = (cgutils.alloca_once_value(builder, each(None)) for each in (floats, words))
        with cgutils.for_range(builder, count) as loop:
            shift = builder.mul(loop.index, ir.IntType(64)(4 * WIDTH))
            x = load_vector(builder, builder.add(change, shift))
            p = floats([float(EXPM1[0])] * WIDTH)
            for coefficient in EXPM1[1:]:
                p = builder.call(multiply_add, [p, x, floats([float(coefficient)] * WIDTH)])
            value = builder.call(multiply_add, [builder.fmul(p, x), x, x])
            value = builder.fmul(value, load_vector(builder, builder.add(shares, shift)))
            store_vector(builder, value, builder.add(terms, shift))
            builder.store(builder.fadd(builder.load(total), value), total)
            size = builder.and_(builder.bitcast(x, words), words([0x7FFFFFFF] * WIDTH))
            before = builder.load(largest)
            builder.store(builder.select(builder.icmp_unsigned(">", size, before), size, before), largest)
        # Bits of floats are in order like the floats, and those of what is not a number come after all others.
        limit = int(SHORT.view(np.uint32))
        long = builder.icmp_unsigned(">", builder.load(largest), words([limit] * WIDTH))
        total = builder.load(total)
        parts = [builder.extract_element(total, ir.IntType(32)(i)) for i in range(WIDTH)]
        while len(parts) > 1:
            half = len(parts) // 2
            parts = [builder.fadd(parts[i], parts[i + half]) for i in range(half)]
        short = builder.icmp_unsigned("==", builder.bitcast(long, ir.IntType(WIDTH)), ir.IntType(WIDTH)(0))
        return builder.select(short, parts[0], ir.FloatType()(float("nan")))

    return types.float32(types.uintp, types.uintp, types.uintp, types.intp), codegen


@shared
def move_rows(out, change, shares, scores, first, height, logarithm, start, stop):
    """The rows start … stop − 1 of out and change [E·M, C], which may be the same; shares and scores [M, C].

    first: −1, or of a causal mask the place of the first of ``height`` queries, whose rows follow one another in
    each matrix: what comes after a query is hidden from it.
    """
    rows, columns = shares.shape
    room = (columns + WIDTH - 1) // WIDTH * WIDTH
    terms, tail, tail_shares = (
        np.empty(room, np.float32),
        np.zeros(WIDTH, np.float32),
        np.zeros(WIDTH, np.float32),
    )
    for row in range(start, stop):
        base = row % rows
        here, target, p = change[row], out[row], shares[base]
        count = columns
        if first >= 0:  # up to a whole vector: what is hidden has no share
            count = min(columns, (first + base % height + WIDTH) // WIDTH * WIDTH)
        total = _terms(terms, here, p, count, tail, tail_shares)
        if not (total > _NEARLY_ALL and total < _HUGE):
            _directly(target, here, scores[base], count, logarithm)
        elif logarithm:
            shift = float32(math.log1p(total))
            for j in range(count):
                target[j] = here[j] - shift
        else:
            inverse = float32(1.0) / (float32(1.0) + total)
            for j in range(count):
                target[j] = (terms[j] - p[j] * total) * inverse
        target[count:] = float32(0.0)


@device
def _terms(terms, change, shares, count, tail, tail_shares):
    """p·expm1(δ) of one row and their sum; not a number where a change is long. Tails: scratch [16]."""
    whole = count // WIDTH
    done, at = whole * WIDTH, uintp(terms.ctypes.data)
    total = _short_terms(at, uintp(change.ctypes.data), uintp(shares.ctypes.data), whole)
    if done < count:
        for j in range(WIDTH):
            inside = done + j < count
            tail[j] = change[done + j] if inside else float32(0.0)
            tail_shares[j] = shares[done + j] if inside else float32(0.0)
        at += uintp(4 * done)
        total += _short_terms(at, uintp(tail.ctypes.data), uintp(tail_shares.ctypes.data), 1)
    if total == total:
        return total
    long, wide = 0, 0.0
    for j in range(count):
        long += 0 if change[j] <= _LONG else 1
        terms[j] = shares[j] * expm1(change[j])
    for j in range(count):
        wide += terms[j]
    return float32(wide) if long == 0 else float32(math.nan)


@routine
def _directly(target, change, scores, count, logarithm):
    """One row in float64. What a score of −∞ hides has no share before or after."""
    highest, top = -math.inf, -math.inf
    for j in range(count):
        if scores[j] > -math.inf:
            highest, top = max(highest, float64(scores[j])), max(top, float64(scores[j]) + float64(change[j]))
    before, after = 0.0, 0.0
    for j in range(count):
        if scores[j] > -math.inf:
            before += math.exp(float64(scores[j]) - highest)
            after += math.exp(float64(scores[j]) + float64(change[j]) - top)
    lost = (top - highest) + math.log(after / before)
    for j in range(count):
        if scores[j] == -math.inf:
            target[j] = float32(0.0)
            continue
        moved = float64(change[j]) - lost
        if logarithm:
            target[j] = moved
            continue
        share = math.exp(float64(scores[j]) - highest) / before
        if moved > 1.0:
            target[j] = math.exp(float64(scores[j]) + float64(change[j]) - top) / after - share
        else:
            target[j] = share * math.expm1(moved)
