"""Machine-level pieces that Numba's loops do not reach, as vectors that LLVM splits for narrower registers."""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

LANES = 32
"""Samples that a pass carries at once: two vectors."""

WIDTH = 16
"""Float32 values in one vector."""

_VECTOR, _RUN = ir.VectorType(ir.FloatType(), WIDTH), ir.VectorType(ir.FloatType(), LANES)
_I64 = ir.IntType(64)
_RUN_BYTES = 4 * LANES


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
def fma(context, a, b, c):
    """a·b + c in float32, rounded once."""

    def codegen(context, builder, signature, arguments):
        return builder.fma(*arguments)

    return types.float32(types.float32, types.float32, types.float32), codegen


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
        inputs = [
            load_vector(builder, builder.add(x, builder.mul(row_bytes, _I64(i))), _RUN) for i in range(4)
        ]
        pairs = []
        for first, second in (inputs[:2], inputs[2:]):
            total, gap = builder.fadd(first, second), builder.fsub(first, second)
            pairs.append([builder.fneg(total), gap, builder.fneg(gap), total])
        for i in range(16):
            entry = builder.fadd(pairs[0][i & 3], pairs[1][i >> 2])
            store_vector(builder, entry, builder.add(table, _I64(_RUN_BYTES * i)))
        return context.get_dummy_value()

    return types.void(types.uintp, types.uintp, types.uintp), codegen


def sum_of_entries(builder, tables, word_at, entry_bytes, kind):
    """Emits Σ_g tables[g, nibble g of the word], the sum of eight vectors of floats or integers.

    tables: address of ``kind`` [8, 16]; an entry takes ``entry_bytes``, a power of two. word_at: of a uint32.
    """
    word = builder.load(builder.inttoptr(word_at, ir.IntType(32).as_pointer()))
    wide, shift = builder.zext(word, _I64), entry_bytes.bit_length() - 1
    add = builder.fadd if isinstance(kind.element, ir.FloatType) else builder.add
    terms = []
    for group in range(8):
        # One shift and one mask make the nibble an offset in bytes.
        down = 4 * group - shift
        moved = builder.lshr(wide, _I64(down)) if down > 0 else builder.shl(wide, _I64(-down))
        offset = builder.and_(moved, _I64(15 << shift))
        at = builder.add(builder.add(tables, _I64(group * 16 * entry_bytes)), offset)
        term = builder.load(builder.inttoptr(at, kind.as_pointer()))
        term.align = 2
        terms.append(term)
    while len(terms) > 1:
        terms = [add(terms[i], terms[i + 1]) for i in range(0, len(terms), 2)]
    return terms[0]


def _signed_sums(count, fresh):
    """The adder of ``count`` words, which overwrites the totals if ``fresh``."""

    @intrinsic
    def add(context, totals, tables, words):
        """``totals[j] += Σ_g tables[g, nibble g of the words, j]`` for 32 lanes j and eight groups g a word.

        totals: address of float32 [32]. tables: address of float32 [8·count, 16, 32]. words: of uint32 [count].
        """

        def codegen(context, builder, signature, arguments):
            totals, tables, words = arguments
            parts = []
            for place in range(count):
                table = builder.add(tables, _I64(8 * 16 * _RUN_BYTES * place))
                at = builder.add(words, _I64(4 * place))
                parts.append(sum_of_entries(builder, table, at, _RUN_BYTES, _RUN))
            total = parts[0] if count == 1 else builder.fadd(*parts)
            total = total if fresh else builder.fadd(load_vector(builder, totals, _RUN), total)
            store_vector(builder, total, totals)
            return context.get_dummy_value()

        return types.void(types.uintp, types.uintp, types.uintp), codegen

    return add


set_one_word, set_two_words = _signed_sums(1, True), _signed_sums(2, True)
add_one_word, add_two_words = _signed_sums(1, False), _signed_sums(2, False)


def _dense(rows):
    """The product of so many rows: four keep the processor busiest."""

    @intrinsic
    def dense(context, out, weights, stride, x, x_stride, count):
        """``out[r, j] = Σ_c weights[r, c]·x[c, j]`` for some rows r and 32 lanes j.

        out: address of float32 [rows, 32]. weights: address of float32 [rows, count] with rows ``stride`` elements
        apart. x: address of float32 [count, 32] with rows ``x_stride`` apart.
        """

        def codegen(context, builder, signature, arguments):
            out, weights, stride, x, x_stride, count = arguments
            sums = [
                [cgutils.alloca_once_value(builder, _VECTOR(None)) for _ in range(2)] for _ in range(rows)
            ]
            x_bytes = builder.mul(x_stride, _I64(4))
            kind = ir.FunctionType(_VECTOR, [_VECTOR] * 3)
            multiply_add = cgutils.get_or_insert_function(builder.module, kind, f"llvm.fma.v{WIDTH}f32")
            with cgutils.for_range(builder, count) as loop:
                row_at = builder.add(x, builder.mul(loop.index, x_bytes))
                inputs = [load_vector(builder, builder.add(row_at, _I64(v * WIDTH * 4))) for v in range(2)]
                for row in range(rows):
                    place = builder.add(builder.mul(stride, _I64(row)), loop.index)
                    at = builder.add(weights, builder.mul(place, _I64(4)))
                    weight = builder.load(builder.inttoptr(at, ir.FloatType().as_pointer()))
                    wide = broadcast(builder, weight)
                    for total, value in zip(sums[row], inputs, strict=True):
                        builder.store(builder.call(multiply_add, [wide, value, builder.load(total)]), total)
            for row in range(rows):
                for v in range(2):
                    at = builder.add(out, _I64((row * LANES + v * WIDTH) * 4))
                    store_vector(builder, builder.load(sums[row][v]), at)
            return context.get_dummy_value()

        address, size = types.uintp, types.intp
        return types.void(address, address, size, address, size, size), codegen

    return dense


dense_rows, dense_pair = _dense(4), _dense(2)


@intrinsic
def add_signs(context, out, weights, word, step):
    """``out[j] = weights[j] ± step``, the sign being bit j of ``word``; float32 [32] each, by address."""

    def codegen(context, builder, signature, arguments):
        out, weights, word, step = arguments
        positive, negative = broadcast(builder, step), broadcast(builder, builder.fneg(step))
        for half in range(2):
            shift = _I64(half * WIDTH * 4)
            signed = builder.select(_mask(builder, word, half), positive, negative)
            total = builder.fadd(load_vector(builder, builder.add(weights, shift)), signed)
            store_vector(builder, total, builder.add(out, shift))
        return context.get_dummy_value()

    return types.void(types.uintp, types.uintp, types.uint32, types.float32), codegen


@intrinsic
def finish_run(context, out, product, totals, base, step, shift, carried, relu, narrow, narrow_product):
    """``out[j] = step·(totals[j] + shift)``, plus ``product[j]`` if carried, then ReLU's exact difference.

    One pass over 16 lanes where separate loops would take three. All by address: totals and base float32; out
    bfloat16 if ``narrow``, product if ``narrow_product``, else float32 too.
    """

    def codegen(context, builder, signature, arguments):
        out, product, totals, base, step, shift, carried, relu, narrow, narrow_product = arguments
        value = builder.fmul(
            broadcast(builder, step), builder.fadd(load_vector(builder, totals), broadcast(builder, shift))
        )
        place = cgutils.alloca_once_value(builder, value)
        with builder.if_then(carried), builder.if_else(narrow_product) as (short, full):
            for branch, load in ((short, load_bfloat16), (full, load_vector)):
                with branch:
                    builder.store(builder.fadd(builder.load(place), load(builder, product)), place)
        with builder.if_then(relu):
            z, a = builder.load(place), load_vector(builder, base)
            zero = _VECTOR(None)
            down, up = builder.fneg(a), builder.fadd(a, z)
            kept = builder.select(builder.fcmp_ordered(">", down, z), down, z)
            opened = builder.select(builder.fcmp_ordered("<", up, zero), zero, up)
            builder.store(builder.select(builder.fcmp_ordered(">", a, zero), kept, opened), place)
        with builder.if_else(narrow) as (short, full):
            for branch, store in ((short, store_bfloat16), (full, store_vector)):
                with branch:
                    store(builder, builder.load(place), out)
        return context.get_dummy_value()

    address, flag = types.uintp, types.boolean
    numbers, flags = (types.float32,) * 2, (flag,) * 4
    return types.void(address, address, address, address, *numbers, *flags), codegen


@intrinsic
def add_run(context, out, base, moved, narrow):
    """``out[j] = base[j] + moved[j]`` for 32 lanes j.

    By address: out and base float32, moved float32 too, or bfloat16 if ``narrow``.
    """

    def codegen(context, builder, signature, arguments):
        out, base, moved, narrow = arguments
        for half in range(LANES // WIDTH):
            floats = _I64(4 * WIDTH * half)
            here, target = (builder.add(each, floats) for each in (base, out))
            with builder.if_else(narrow) as (short, full):
                for branch, load, size in ((short, load_bfloat16, 2), (full, load_vector, 4)):
                    with branch:
                        value = load(builder, builder.add(moved, _I64(size * WIDTH * half)))
                        store_vector(builder, builder.fadd(load_vector(builder, here), value), target)
        return context.get_dummy_value()

    return types.void(types.uintp, types.uintp, types.uintp, types.boolean), codegen


@intrinsic
def largest_sums(context, out, values, starts, gaps, stride, count):
    """``out[j] = max_i values[starts[i] + j] + gaps[i, j]`` for 16 lanes j; what is not a number wins.

    All by address: out float32 [16], values float32, starts int64 [count], gaps float32 with rows ``stride``
    elements apart.
    """

    def codegen(context, builder, signature, arguments):
        out, values, starts, gaps, stride, count = arguments
        best = cgutils.alloca_once_value(builder, broadcast(builder, ir.FloatType()(float("-inf"))))
        with cgutils.for_range(builder, count) as loop:
            place = builder.add(starts, builder.mul(loop.index, _I64(8)))
            start = builder.load(builder.inttoptr(place, _I64.as_pointer()))
            row = builder.add(gaps, builder.mul(builder.mul(loop.index, stride), _I64(4)))
            here = load_vector(builder, builder.add(values, builder.mul(start, _I64(4))))
            value, before = builder.fadd(here, load_vector(builder, row)), builder.load(best)
            kept = builder.or_(
                builder.fcmp_ordered(">=", before, value), builder.fcmp_unordered("!=", before, before)
            )
            builder.store(builder.select(kept, before, value), best)
        store_vector(builder, builder.load(best), out)
        return context.get_dummy_value()

    return types.void(types.uintp, types.uintp, types.uintp, types.uintp, types.intp, types.intp), codegen


@intrinsic
def signed_coefficient_sums(context, out, words, row_stride, stride, coefficients, count):
    """``out[r, j] = Σ_k ±coefficients[k]``, the sign being bit j of ``words[r·row_stride + k·stride]``.

    For four rows r and 32 lanes j: additions that follow one another would wait for each other. out: address of
    float32 [4, 32]. words: address of uint32, strides in elements. coefficients: float32 [count]. The sums run in
    the order of k.
    """

    def codegen(context, builder, signature, arguments):
        out, words, row_stride, stride, coefficients, count = arguments
        sums = [[cgutils.alloca_once_value(builder, _VECTOR(None)) for _ in range(2)] for _ in range(4)]
        with cgutils.for_range(builder, count) as loop:
            k = loop.index
            value_at = builder.add(coefficients, builder.mul(k, _I64(4)))
            value = builder.load(builder.inttoptr(value_at, ir.FloatType().as_pointer()))
            positive = broadcast(builder, value)
            negative = broadcast(builder, builder.fneg(value))
            for row, halves in enumerate(sums):
                place = builder.add(builder.mul(k, stride), builder.mul(row_stride, _I64(row)))
                at = builder.add(words, builder.mul(place, _I64(4)))
                word = builder.load(builder.inttoptr(at, ir.IntType(32).as_pointer()))
                for half, total in enumerate(halves):
                    term = builder.select(_mask(builder, word, half), positive, negative)
                    builder.store(builder.fadd(builder.load(total), term), total)
        for row, halves in enumerate(sums):
            for half, total in enumerate(halves):
                at = builder.add(out, _I64((row * LANES + half * WIDTH) * 4))
                store_vector(builder, builder.load(total), at)
        return context.get_dummy_value()

    address, size = types.uintp, types.intp
    return types.void(address, address, size, size, address, size), codegen


def _sum_of_doubles(ways):
    """The adder with so many vectors of sums, which do not wait for one another."""

    @intrinsic
    def add_up(context, values, count):
        """The sum of 8·ways·count float32 values at an address, in float64: sums side by side, then one."""

        def codegen(context, builder, signature, arguments):
            values, count = arguments
            wide, narrow = ir.VectorType(ir.DoubleType(), 8), ir.VectorType(ir.FloatType(), 8)
            sums = [cgutils.alloca_once_value(builder, wide(None)) for _ in range(ways)]
            with cgutils.for_range(builder, count) as loop:
                for way, total in enumerate(sums):
                    place = builder.add(builder.mul(loop.index, _I64(ways)), _I64(way))
                    at = builder.add(values, builder.mul(place, _I64(4 * 8)))
                    some = builder.load(builder.inttoptr(at, narrow.as_pointer()))
                    some.align = 4
                    builder.store(builder.fadd(builder.load(total), builder.fpext(some, wide)), total)
            parts = [
                builder.extract_element(builder.load(total), ir.IntType(32)(i))
                for total in sums
                for i in range(8)
            ]
            while len(parts) > 1:
                parts = [builder.fadd(parts[i], parts[i + 1]) for i in range(0, len(parts), 2)]
            return parts[0]

        return types.float64(types.uintp, types.intp), codegen

    return add_up


sum_of_doubles, sum_of_32_doubles = _sum_of_doubles(1), _sum_of_doubles(4)


def _mask(builder, word, half):
    """16 bits of a word as 16 conditions."""
    bits = builder.trunc(builder.lshr(word, ir.IntType(32)(16 * half)), ir.IntType(16))
    return builder.bitcast(bits, ir.VectorType(ir.IntType(1), WIDTH))


def broadcast(builder, value):
    """Emits a float32 in all 16 lanes."""
    one = builder.insert_element(ir.Constant(_VECTOR, ir.Undefined), value, ir.IntType(32)(0))
    zeros = ir.Constant(ir.VectorType(ir.IntType(32), WIDTH), None)
    return builder.shuffle_vector(one, ir.Constant(_VECTOR, ir.Undefined), zeros)


def load_vector(builder, address, kind=_VECTOR):
    """Emits the load of 16 float32, or of another vector, at any address."""
    value = builder.load(builder.inttoptr(address, kind.as_pointer()))
    value.align = 4
    return value


def store_vector(builder, value, address):
    """Emits the store of a vector of float32 at any address."""
    builder.store(value, builder.inttoptr(address, value.type.as_pointer())).align = 4


def load_bfloat16(builder, address):
    """Emits the load of 16 bfloat16 at any address, as float32."""
    halves = ir.VectorType(ir.IntType(16), WIDTH)
    words = ir.VectorType(ir.IntType(32), WIDTH)
    value = builder.load(builder.inttoptr(address, halves.as_pointer()))
    value.align = 2
    return builder.bitcast(builder.shl(builder.zext(value, words), words([16] * WIDTH)), _VECTOR)


def store_bfloat16(builder, value, address):
    """Emits the store of 16 float32 as bfloat16, rounded as ``round_bfloat16`` does."""
    halves = ir.VectorType(ir.IntType(16), WIDTH)
    words = ir.VectorType(ir.IntType(32), WIDTH)
    bits = builder.bitcast(value, words)
    high = builder.lshr(bits, words([16] * WIDTH))
    odd = builder.and_(high, words([1] * WIDTH))
    rounded = builder.add(builder.add(bits, words([0x7FFF] * WIDTH)), odd)
    number = builder.fcmp_ordered("ord", value, value)
    kept = builder.select(number, builder.lshr(rounded, words([16] * WIDTH)), words([0x7FC0] * WIDTH))
    result = builder.trunc(kept, halves)
    builder.store(result, builder.inttoptr(address, halves.as_pointer())).align = 2
