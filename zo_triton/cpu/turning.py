"""Between rows of samples and rows of features: squares of 16 × 16 turned over in registers, and signs likewise."""

from __future__ import annotations

from llvmlite import ir
from numba import types, uint32, uintp
from numba.extending import intrinsic

from zo_triton.cpu.compiling import device, routine
from zo_triton.cpu.scalars import load, store
from zo_triton.cpu.vectors import (
    LANES,
    WIDTH,
    broadcast,
    load_bfloat16,
    load_vector,
    store_bfloat16,
    store_vector,
)

CLASH = 4096
"""Rows a multiple of so many bytes apart meet in one set of the level-1 cache, and loads from one of them wait for
stores to another: adding across them takes twice as long as along them, three times as long as across others."""

STAGED = 16 * 128
"""Float32 values of 16 samples that are turned over before they are added along the rows: 128 of each, 8 KiB."""

_I64 = ir.IntType(64)
_MASK = ir.VectorType(ir.IntType(32), WIDTH)


@routine
def sum_of_rows(x, base, moved, first, lanes):
    """``x[i, j] = base[first + j, i] + moved[first + j, i]`` for ``lanes`` samples j, at most 32.

    x: float32 [at least in, 32]. base: float32 [N, in], moved: float32 or bfloat16 bits, both contiguous.
    """
    inner = base.shape[1]
    whole, wide = lanes // WIDTH * WIDTH, inner // WIDTH * WIDTH
    size = uintp(moved.itemsize)
    base_bytes, moved_bytes = uintp(4 * inner), size * uintp(inner)
    for lane in range(0, whole, WIDTH):
        target = uintp(x.ctypes.data) + uintp(4 * lane)
        base_at = uintp(base.ctypes.data) + uintp(first + lane) * base_bytes
        moved_at = uintp(moved.ctypes.data) + uintp(first + lane) * moved_bytes
        for _ in range(0, wide, WIDTH):
            _turn_sum(target, base_at, base_bytes, moved_at, moved_bytes, moved)
            target += uintp(4 * LANES * WIDTH)
            base_at, moved_at = base_at + uintp(4 * WIDTH), moved_at + size * uintp(WIDTH)
    for lane in range(0 if wide < inner else whole, lanes):
        ours, theirs = base[first + lane], moved[first + lane]
        for i in range(wide if lane < whole else 0, inner):
            x[i, lane] = ours[i] + load(theirs[i])


@routine
def turn_rows(x, source, first, lanes):
    """``x[i, j] = source[first + j, i]`` for ``lanes`` samples j, at most 32.

    x: float32 [at least features, 32]. source: float32 or bfloat16 bits [N, features], contiguous.
    """
    features = source.shape[1]
    whole, wide = lanes // WIDTH * WIDTH, features // WIDTH * WIDTH
    size = uintp(source.itemsize)
    row_bytes = size * uintp(features)
    for lane in range(0, whole, WIDTH):
        target = uintp(x.ctypes.data) + uintp(4 * lane)
        at = uintp(source.ctypes.data) + uintp(first + lane) * row_bytes
        for _ in range(0, wide, WIDTH):
            _turn(target, at, row_bytes, source)
            target, at = target + uintp(4 * LANES * WIDTH), at + size * uintp(WIDTH)
    for lane in range(lanes):
        line = source[first + lane]
        for i in range(wide if lane < whole else 0, features):
            x[i, lane] = load(line[i])


@routine
def add_to_rows(out, first, lanes, column, totals, bias, step, staged):
    """``out[first + j, column + r] += step·(totals[r, j] + bias[r])`` for ``lanes`` samples j, at most 32.

    out: float32 or bfloat16 bits [N, out], contiguous. totals: float32 [rows, 32]. bias: float32 [rows]. staged:
    scratch, float32 [:data:`STAGED`].
    """
    rows = totals.shape[0]
    whole, wide = lanes // WIDTH * WIDTH, rows // WIDTH * WIDTH
    size = uintp(out.itemsize)
    row_bytes = size * uintp(out.shape[1])
    for lane in range(0, whole, WIDTH):
        target = uintp(out.ctypes.data) + uintp(first + lane) * row_bytes + size * uintp(column)
        source, bias_at = uintp(totals.ctypes.data) + uintp(4 * lane), uintp(bias.ctypes.data)
        if row_bytes % uintp(CLASH) == uintp(0):
            _add_staged(target, row_bytes, source, bias_at, step, wide, out, staged)
            continue
        for _ in range(0, wide, WIDTH):
            _add_turned(target, row_bytes, source, bias_at, step, out)
            target += size * uintp(WIDTH)
            source, bias_at = source + uintp(4 * LANES * WIDTH), bias_at + uintp(4 * WIDTH)
    for lane in range(0 if wide < rows else whole, lanes):
        line = out[first + lane]
        for row in range(wide if lane < whole else 0, rows):
            at = uintp(column) + uintp(row)
            store(line, at, load(line[at]) + step * (totals[row, lane] + bias[row]))


@device
def _add_staged(target, row_bytes, source, bias_at, step, rows, out, staged):
    """As :func:`_add_turned`, for a multiple of 16 rows of totals: they are turned over into ``staged`` first.

    A sample's lie there in pieces of 32.
    """
    line_bytes, half_bytes, vector_bytes = uintp(4 * LANES), uintp(4 * WIDTH), uintp(out.itemsize * WIDTH)
    most = STAGED // WIDTH
    for first in range(0, rows, most):
        squares, at = min(most, rows - first) // WIDTH, uintp(staged.ctypes.data)
        for square in range(squares):
            _turn(at + _piece(square), source, line_bytes, staged)
            source += uintp(WIDTH) * line_bytes
        for sample in range(WIDTH):
            here, bias_here = target + uintp(sample) * row_bytes, bias_at
            for square in range(squares):
                _add_vector(here, at + _piece(square), bias_here, step, out)
                here, bias_here = here + vector_bytes, bias_here + half_bytes
            at += line_bytes
        target, bias_at = target + uintp(squares) * vector_bytes, bias_at + uintp(squares) * half_bytes


@device
def _piece(square):
    """Bytes before a square among those that :func:`_turn` wrote side by side, two to a piece [16, 32]."""
    return uintp(square // 2) * uintp(4 * LANES * WIDTH) + uintp(square % 2) * uintp(4 * WIDTH)


@routine
def turn_signs(words, strip, drawn):
    """The signs of 32 rows become bit columns: bit r of ``words[c, strip]`` is bit c of row r.

    words: uint32 [rows, width], written in the column ``strip``. drawn: uint32 [32, at least rows / 32], destroyed.
    """
    rows, width = words.shape[0], drawn.shape[1]
    half, mask = 16, uint32(0x0000FFFF)
    while half > 0:
        shift = uint32(half)
        for row in range(32):
            if row & half == 0:
                first, second = drawn[row], drawn[row + half]
                for column in range(width):
                    swapped = uint32(((first[column] >> shift) ^ second[column]) & mask)
                    second[column] ^= swapped
                    first[column] ^= swapped << shift
        half //= 2
        mask = uint32(mask ^ uint32(mask << uint32(half)))
    for row in range(rows):
        words[row, strip] = drawn[row % 32, row // 32]


def turned_square(builder, rows):
    """Emits a square of 16 vectors turned over: halves change places, then quarters, then ever smaller blocks."""
    rows, block = list(rows), WIDTH // 2
    while block:
        upper = [i if not i & block else WIDTH + i - block for i in range(WIDTH)]
        lower = [i + block if not i & block else WIDTH + i for i in range(WIDTH)]
        for row in range(WIDTH):
            if not row & block:
                pair = rows[row], rows[row + block]
                rows[row], rows[row + block] = (
                    builder.shuffle_vector(*pair, ir.Constant(_MASK, mask)) for mask in (upper, lower)
                )
        block //= 2
    return rows


@intrinsic
def _turn(context, x, source, row_bytes, like):
    """``x[i, j] = source[j, i]`` for 16 × 16 elements, by address: rows of x are 32 float32 apart.

    ``like`` is an array of the dtype that ``source`` has.
    """
    load_source = load_bfloat16 if like.dtype.bitwidth == 16 else load_vector

    def codegen(context, builder, signature, arguments):
        x, source, row_bytes, _ = arguments
        rows = []
        for _ in range(WIDTH):
            rows.append(load_source(builder, source))
            source = builder.add(source, row_bytes)
        for i, row in enumerate(turned_square(builder, rows)):
            store_vector(builder, row, builder.add(x, _I64(4 * LANES * i)))
        return context.get_dummy_value()

    return types.void(*(types.uintp,) * 3, like), codegen


@intrinsic
def _turn_sum(context, x, base, base_bytes, moved, moved_bytes, like):
    """``x[i, j] = base[j, i] + moved[j, i]`` for 16 × 16 elements, by address: rows of x are 32 float32 apart.

    ``like`` is an array of the dtype that ``moved`` has.
    """
    load_moved = load_bfloat16 if like.dtype.bitwidth == 16 else load_vector

    def codegen(context, builder, signature, arguments):
        x, base, base_bytes, moved, moved_bytes, _ = arguments
        sums = []
        for _ in range(WIDTH):
            sums.append(builder.fadd(load_vector(builder, base), load_moved(builder, moved)))
            base, moved = builder.add(base, base_bytes), builder.add(moved, moved_bytes)
        for i, row in enumerate(turned_square(builder, sums)):
            store_vector(builder, row, builder.add(x, _I64(4 * LANES * i)))
        return context.get_dummy_value()

    return types.void(*(types.uintp,) * 5, like), codegen


@intrinsic
def _add_turned(context, out, row_bytes, totals, bias, step, like):
    """``out[j, r] += step·(totals[r, j] + bias[r])`` for 16 × 16 elements, by address: totals lie 32 apart.

    ``like`` is an array of the dtype that ``out`` has.
    """

    def codegen(context, builder, signature, arguments):
        out, row_bytes, totals, bias, step, _ = arguments
        rows = [load_vector(builder, builder.add(totals, _I64(4 * LANES * i))) for i in range(WIDTH)]
        wide, shift = broadcast(builder, step), load_vector(builder, bias)
        for row in turned_square(builder, rows):
            _emit_addition(builder, out, row, shift, wide, like)
            out = builder.add(out, row_bytes)
        return context.get_dummy_value()

    address = types.uintp
    return types.void(address, address, address, address, types.float32, like), codegen


@intrinsic
def _add_vector(context, out, totals, bias, step, like):
    """``out[r] += step·(totals[r] + bias[r])`` for 16 elements, by address.

    ``like`` is an array of the dtype that ``out`` has.
    """

    def codegen(context, builder, signature, arguments):
        out, totals, bias, step, _ = arguments
        row, shift = load_vector(builder, totals), load_vector(builder, bias)
        _emit_addition(builder, out, row, shift, broadcast(builder, step), like)
        return context.get_dummy_value()

    address = types.uintp
    return types.void(address, address, address, types.float32, like), codegen


def _emit_addition(builder, out, row, shift, step, like):
    """Emits ``out += step·(row + shift)`` for 16 elements at an address, in the dtype of ``like``."""
    narrow = like.dtype.bitwidth == 16
    load_out, store_out = (load_bfloat16, store_bfloat16) if narrow else (load_vector, store_vector)
    change = builder.fmul(step, builder.fadd(row, shift))
    store_out(builder, builder.fadd(load_out(builder, out), change), out)
