"""Pieces of the small network's step at the level of the machine: 32 samples each, by address, float32."""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from zo_triton.cpu.node_signs import mask
from zo_triton.cpu.turning import turned_square
from zo_triton.cpu.vectors import LANES, WIDTH, broadcast, load_vector, store_vector

_I64 = ir.IntType(64)


def _places(builder, addresses, half):
    """Emits the addresses of one half of each run of 32."""
    return [builder.add(each, _I64(4 * WIDTH * half)) for each in addresses]


def _relu_step(builder, step, base):
    """Emits ReLU's exact difference: base > 0 → max(step, -base), else max(base + step, 0)."""
    zero = step.type(None)
    down, up = builder.fneg(base), builder.fadd(base, step)
    kept = builder.select(builder.fcmp_ordered(">", down, step), down, step)
    opened = builder.select(builder.fcmp_ordered("<", up, zero), zero, up)
    return builder.select(builder.fcmp_ordered(">", base, zero), kept, opened)


@intrinsic
def split_steps(context, middle, half_gap, base, word, eps):
    """Half the sum and half the difference of what ReLU makes of base + sε and of base - sε; s by the word."""

    def codegen(context, builder, signature, arguments):
        middle, half_gap, base, word, eps = arguments
        positive, negative = broadcast(builder, eps), broadcast(builder, builder.fneg(eps))
        one_half = positive.type([0.5] * WIDTH)
        for half in range(LANES // WIDTH):
            places = _places(builder, (middle, half_gap, base), half)
            z = load_vector(builder, places[2])
            bits = mask(builder, word, half)
            up = _relu_step(builder, builder.select(bits, positive, negative), z)
            down = _relu_step(builder, builder.select(bits, negative, positive), z)
            store_vector(builder, builder.fmul(one_half, builder.fadd(up, down)), places[0])
            store_vector(builder, builder.fmul(one_half, builder.fsub(up, down)), places[1])
        return context.get_dummy_value()

    address = types.uintp
    return types.void(address, address, address, types.uint32, types.float32), codegen


@intrinsic
def add_scaled(context, out, x, factor):
    """``out[j] += factor·x[j]``."""

    def codegen(context, builder, signature, arguments):
        out, x, factor = arguments
        wide = broadcast(builder, factor)
        kind = ir.FunctionType(wide.type, [wide.type] * 3)
        multiply_add = cgutils.get_or_insert_function(builder.module, kind, f"llvm.fma.v{WIDTH}f32")
        for half in range(LANES // WIDTH):
            to, source = _places(builder, (out, x), half)
            values = [wide, load_vector(builder, source), load_vector(builder, to)]
            store_vector(builder, builder.call(multiply_add, values), to)
        return context.get_dummy_value()

    return types.void(types.uintp, types.uintp, types.float32), codegen


@intrinsic
def combine(context, out, steady, changing, sign, base, relu):
    """``out[j] = steady[j] + sign·changing[j]``, then ReLU's exact difference if ``relu``."""

    def codegen(context, builder, signature, arguments):
        out, steady, changing, sign, base, relu = arguments
        wide = broadcast(builder, sign)
        for half in range(LANES // WIDTH):
            to, first, second, beneath = _places(builder, (out, steady, changing, base), half)
            signed = builder.fmul(wide, load_vector(builder, second))
            value = builder.fadd(load_vector(builder, first), signed)
            place = cgutils.alloca_once_value(builder, value)
            with builder.if_then(relu):
                builder.store(_relu_step(builder, value, load_vector(builder, beneath)), place)
            store_vector(builder, builder.load(place), to)
        return context.get_dummy_value()

    address = types.uintp
    return types.void(address, address, address, types.float32, address, types.boolean), codegen


@intrinsic
def turn_square(context, out, out_bytes, source, source_bytes):
    """``out[i, j] = source[j, i]`` for 16 × 16 elements, rows so many bytes apart."""

    def codegen(context, builder, signature, arguments):
        out, out_bytes, source, source_bytes = arguments
        rows = []
        for _ in range(WIDTH):
            rows.append(load_vector(builder, source))
            source = builder.add(source, source_bytes)
        for row in turned_square(builder, rows):
            store_vector(builder, row, out)
            out = builder.add(out, out_bytes)
        return context.get_dummy_value()

    return types.void(*(types.uintp,) * 4), codegen
