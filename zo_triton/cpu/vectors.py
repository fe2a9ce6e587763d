"""Machine-level pieces that Numba's loops do not reach: bit casts and 16-lane sign arithmetic.

Written as LLVM vectors of 16 float32; LLVM splits them where the processor's registers are narrower.
"""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

LANES = 32
"""Samples that the sign product carries at once: two vectors."""

_WIDTH = 16
_VECTOR = ir.VectorType(ir.FloatType(), _WIDTH)
_I64 = ir.IntType(64)


@intrinsic
def float_from_bits(context, bits):
    """The float32 with these uint32 bits."""

    def codegen(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.uint32), codegen


@intrinsic
def bits_from_float(context, value):
    """The uint32 bits of a float32."""

    def codegen(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], ir.IntType(32))

    return types.uint32(types.float32), codegen


@intrinsic
def population_count(context, word):
    """How many bits of a uint32 are 1."""

    def codegen(context, builder, signature, arguments):
        return builder.ctpop(arguments[0])

    return types.uint32(types.uint32), codegen


@intrinsic
def write_signed_sums(context, table, x, row_bytes):
    """``table[i, j] = ±x[0, j] ± x[1, j] ± x[2, j] ± x[3, j]``, bit b of i giving the sign of x[b, j].

    table: address of float32 [16, 32]. x: address of float32 [4, 32] with rows ``row_bytes`` apart.
    """

    def codegen(context, builder, signature, arguments):
        table, x, row_bytes = arguments
        rows = [builder.add(x, builder.mul(row_bytes, _I64(i))) for i in range(4)]
        for vector in range(LANES // _WIDTH):
            shift = vector * _WIDTH * 4
            inputs = [_load(builder, builder.add(row, _I64(shift))) for row in rows]
            pairs = []
            for first, second in (inputs[:2], inputs[2:]):
                total, gap = builder.fadd(first, second), builder.fsub(first, second)
                pairs.append([builder.fneg(total), gap, builder.fneg(gap), total])
            for i in range(16):
                entry = builder.fadd(pairs[0][i & 3], pairs[1][i >> 2])
                _store(builder, entry, builder.add(table, _I64(LANES * 4 * i + shift)))
        return context.get_dummy_value()

    return types.void(types.uintp, types.uintp, types.uintp), codegen


@intrinsic
def add_signed_sums(context, totals, tables, word):
    """``totals[j] += Σ_{g<8} tables[g, nibble g of word, j]`` for the 32 lanes j.

    totals: address of float32 [32]. tables: address of float32 [8, 16, 32].
    """

    def codegen(context, builder, signature, arguments):
        totals, tables, word = arguments
        wide = builder.zext(word, _I64)
        entry_bytes = LANES * 4
        entries = []
        for group in range(8):
            nibble = builder.and_(builder.lshr(wide, _I64(4 * group)), _I64(15))
            offset = builder.add(builder.mul(nibble, _I64(entry_bytes)), _I64(group * 16 * entry_bytes))
            entries.append(builder.add(tables, offset))
        for vector in range(LANES // _WIDTH):
            shift = _I64(vector * _WIDTH * 4)
            terms = [_load(builder, builder.add(entry, shift)) for entry in entries]
            while len(terms) > 1:
                terms = [builder.fadd(terms[i], terms[i + 1]) for i in range(0, len(terms), 2)]
            place = builder.add(totals, shift)
            _store(builder, builder.fadd(_load(builder, place), terms[0]), place)
        return context.get_dummy_value()

    return types.void(types.uintp, types.uintp, types.uint32), codegen


@intrinsic
def signed_coefficient_sum(context, out, words, stride, coefficients, count):
    """``out[j] = Σ_k ±coefficients[k]``, the sign being bit j of ``words[k·stride]``, for 32 lanes j.

    out: address of float32 [32]. words: address of uint32, stride in elements. coefficients: float32 [count].
    The sum runs in the order of k.
    """

    def codegen(context, builder, signature, arguments):
        out, words, stride, coefficients, count = arguments
        halves = [cgutils.alloca_once_value(builder, _VECTOR(None)) for _ in range(2)]
        with cgutils.for_range(builder, count) as loop:
            k = loop.index
            word_at = builder.add(words, builder.mul(builder.mul(k, stride), _I64(4)))
            word = builder.load(builder.inttoptr(word_at, ir.IntType(32).as_pointer()))
            value_at = builder.add(coefficients, builder.mul(k, _I64(4)))
            value = builder.load(builder.inttoptr(value_at, ir.FloatType().as_pointer()))
            positive = _broadcast(builder, value)
            negative = _broadcast(builder, builder.fneg(value))
            for half, total in enumerate(halves):
                bits = builder.trunc(builder.lshr(word, ir.IntType(32)(16 * half)), ir.IntType(16))
                mask = builder.bitcast(bits, ir.VectorType(ir.IntType(1), _WIDTH))
                term = builder.select(mask, positive, negative)
                builder.store(builder.fadd(builder.load(total), term), total)
        for half, total in enumerate(halves):
            _store(builder, builder.load(total), builder.add(out, _I64(half * _WIDTH * 4)))
        return context.get_dummy_value()

    return types.void(types.uintp, types.uintp, types.intp, types.uintp, types.intp), codegen


def _broadcast(builder, value):
    one = builder.insert_element(ir.Constant(_VECTOR, ir.Undefined), value, ir.IntType(32)(0))
    zeros = ir.Constant(ir.VectorType(ir.IntType(32), _WIDTH), None)
    return builder.shuffle_vector(one, ir.Constant(_VECTOR, ir.Undefined), zeros)


def _load(builder, address):
    value = builder.load(builder.inttoptr(address, _VECTOR.as_pointer()))
    value.align = 4
    return value


def _store(builder, value, address):
    builder.store(value, builder.inttoptr(address, _VECTOR.as_pointer())).align = 4
