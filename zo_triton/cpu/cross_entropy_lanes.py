"""The sum of a cross-entropy's difference for sixteen samples at once, one to a lane.

Each term is what ``expm1`` makes of it, bit for bit, and they are added in the order of the classes: a sample that
is alone has the same sum.
"""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from zo_triton.cpu.scalars import EXPM1, LN2_HIGH, LN2_LOW, LOG2_E, ROUNDER
from zo_triton.cpu.vectors import WIDTH, load_bfloat16, load_vector, store_vector

_FLOATS, _WORDS = ir.VectorType(ir.FloatType(), WIDTH), ir.VectorType(ir.IntType(32), WIDTH)

_LOWEST, _HIGHEST = -87.0, 88.0
"""Where ``expm1`` saturates."""


@intrinsic
def sum_steps(
    context, out, highest, moved, moved_bytes, own, probabilities, probability_bytes, count, narrow
):
    """``out[j] = Σ_c p[c, j]·expm1(moved[c, j] - own[j])`` for 16 lanes j; in highest the largest exponent, or 0.

    All by address, rows so many bytes apart: out, highest and own float32 [16], moved and probabilities float32
    [count, 16], moved bfloat16 if ``narrow``.
    """

    def codegen(context, builder, signature, arguments):
        out, highest, moved, moved_bytes, own, probabilities, probability_bytes, count, narrow = arguments
        total, top = (cgutils.alloca_once_value(builder, _FLOATS(None)) for _ in range(2))
        here = cgutils.alloca_once(builder, _FLOATS)
        own = load_vector(builder, own)
        with cgutils.for_range(builder, count) as loop:
            at = builder.add(moved, builder.mul(loop.index, moved_bytes))
            with builder.if_else(narrow) as (short, full):
                for branch, load_row in ((short, load_bfloat16), (full, load_vector)):
                    with branch:
                        builder.store(load_row(builder, at), here)
            x, before = builder.fsub(builder.load(here), own), builder.load(top)
            builder.store(builder.select(builder.fcmp_ordered(">", x, before), x, before), top)
            at = builder.add(probabilities, builder.mul(loop.index, probability_bytes))
            weighted = builder.fmul(load_vector(builder, at), _expm1(builder, x))
            builder.store(builder.fadd(builder.load(total), weighted), total)
        store_vector(builder, builder.load(total), out)
        store_vector(builder, builder.load(top), highest)
        return context.get_dummy_value()

    address = types.uintp
    return types.void(*(address,) * 7, types.intp, types.boolean), codegen


def _expm1(builder, x):
    """Emits ``expm1`` of sixteen; what is not a number stays so."""
    for limit, beyond in ((_LOWEST, "<"), (_HIGHEST, ">")):
        bound = _every(_FLOATS, limit)
        x = builder.select(builder.fcmp_ordered(beyond, x, bound), bound, x)
    rounder = _every(_FLOATS, ROUNDER)
    shifted = _multiply_add(builder, x, _every(_FLOATS, LOG2_E), rounder)
    n = builder.fsub(shifted, rounder)
    r = _multiply_add(builder, n, _every(_FLOATS, -LN2_HIGH), x)
    r = _multiply_add(builder, n, _every(_FLOATS, -LN2_LOW), r)
    # The rounder leaves n in the low bits, and a sum with 126 there shifts into the exponent of 2^(n - 1).
    power = builder.add(
        builder.sub(builder.bitcast(shifted, _WORDS), builder.bitcast(rounder, _WORDS)), _every(_WORDS, 126)
    )
    half = builder.bitcast(builder.shl(power, _every(_WORDS, 23)), _FLOATS)
    p = _every(_FLOATS, EXPM1[0])
    for coefficient in EXPM1[1:]:
        p = _multiply_add(builder, p, r, _every(_FLOATS, coefficient))
    small = _multiply_add(builder, builder.fmul(p, r), r, r)
    scaled = _multiply_add(builder, half, small, builder.fsub(half, _every(_FLOATS, 0.5)))
    return builder.fmul(scaled, _every(_FLOATS, 2.0))


def _multiply_add(builder, a, b, c):
    """Emits a·b + c, rounded once."""
    kind = ir.FunctionType(_FLOATS, [_FLOATS] * 3)
    return builder.call(
        cgutils.get_or_insert_function(builder.module, kind, f"llvm.fma.v{WIDTH}f32"), [a, b, c]
    )


def _every(kind, value):
    """The value in all lanes."""
    return kind([int(value) if kind is _WORDS else float(value)] * WIDTH)
