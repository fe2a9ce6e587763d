"""Programs of elementwise operations and row sums, run a block of rows at a time in cache.

A program is data: instructions over registers, each a block of rows (or one value a row). It runs first what
depends on the base alone, once a block, and then for each evaluation what depends on its differences. So a formula
of many operations passes through memory once, whatever it is, and nothing is compiled for it: the instructions of
all programs are the loops below. ``row_program`` makes them.
"""

from __future__ import annotations

import math

import numpy as np
from numba import carray, float32, int64, uintp

from zo_triton.cpu.activation import _tanh as tanh
from zo_triton.cpu.activation import activate_simply
from zo_triton.cpu.addresses import keep, pointer
from zo_triton.cpu.compiling import device, routine, wide_vectors
from zo_triton.cpu.scalars import EXP_HIGHEST, exp, expm1, load, log, store
from zo_triton.cpu.sharing import shared
from zo_triton.cpu.vectors import fma, sum_of_32_doubles

OPERATIONS = (
    "constant", "copy", "add", "sub", "mul", "div", "fma", "maximum", "minimum", "add_number", "mul_number",
    "div_number", "from_number", "number_over", "max_number", "min_number", "add_column", "mul_column", "gt", "ge",
    "eq", "where", "abs", "sqrt", "rsqrt", "exp", "expm1", "log", "log1p", "tanh", "sigmoid",
    "row_sum", "spread", "activation", "turn_halves",
)  # fmt: skip
"""In the order of their codes. A condition is 1 or 0; a number stands beside the instruction."""

(
    CONSTANT, COPY, ADD, SUB, MUL, DIV, FMA, MAXIMUM, MINIMUM, ADD_NUMBER, MUL_NUMBER, DIV_NUMBER, FROM_NUMBER,
    NUMBER_OVER, MAX_NUMBER, MIN_NUMBER, ADD_COLUMN, MUL_COLUMN, GT, GE, EQ, WHERE, ABS, SQRT, RSQRT, EXP,
    EXPM1_CODE, LOG, LOG1P, TANH, SIGMOID, ROW_SUM, SPREAD, ACTIVATION, TURN_HALVES,
) = range(len(OPERATIONS))  # fmt: skip

WIDE = 6
"""Column of an instruction that says whether it works on whole rows; before it stand code, target, four sources."""

ROWS, FEATURES, BLOCK, SEGMENT, EVALUATIONS, GROUPS, REGISTERS, SCRATCH, CONSTANTS, BASE, TOTAL = range(11)
"""Geometry: rows and features in all, of a block, evaluations and the groups they fall into, then sizes."""

PER_EVALUATION, LAST_STRIDE, WAY, NARROW, SIZE = range(5)
"""Columns of a leaf: stride from evaluation to evaluation in bytes, along a row in elements, how it is read,
whether it has one value a row, and an element's bytes; behind them strides over the rows' axes in elements."""

STRIDES = 5
DIRECT, COPIED, BYTES, BFLOAT16 = range(4)
"""Ways to read a leaf: where it lies, or gathered into a register: float32, bytes that are 0 or 1, bfloat16."""

_ONE, _ZERO, _NAN = np.float32(1.0), np.float32(0.0), np.float32(np.nan)
_INFINITY = np.float32(np.inf)
_TINY = np.float32(1.17549435e-38)


@device
def _floats(address, count):
    return carray(pointer(address), count, np.float32)


@device
def _expm1(x):
    y = _INFINITY if x > EXP_HIGHEST else expm1(x)
    return y if x == x else x


@device
def _log(x):
    y = log(x) if x >= _TINY else log(x * float32(2.0**32)) - float32(22.18070978)
    y = y if x > _ZERO else (-_INFINITY if x == _ZERO else _NAN)
    return y if x < _INFINITY else x


@device
def _log1p(x):
    u = _ONE + x
    y = log(max(u, _TINY)) + (x - (u - _ONE)) / u
    y = y if u > _ZERO else (-_INFINITY if u == _ZERO else _NAN)
    return y if x < _INFINITY else x


@device
def _tanh(x):
    y = tanh(x)
    return y if x == x else x


@device
def _greater(a, b):
    """The larger one, or the one that is not a number."""
    return a if (a > b or a != a) else b


@device
def _smaller(a, b):
    return a if (a < b or a != a) else b


@routine
def _execute(code, numbers, first, last, where, rows, features):
    """Runs the instructions first … last - 1 on registers of so many rows, which lie at the addresses ``where``.

    No target is one of its sources: the loops would not be vectorised.
    """
    wide_vectors()
    for i in range(first, last):
        op, count = code[i, 0], rows * features if code[i, WIDE] else rows
        out = _floats(where[code[i, 1]], count)
        a, b = _floats(where[code[i, 2]], count), _floats(where[code[i, 3]], count)
        x = numbers[i]
        if op == CONSTANT:
            for j in range(count):
                out[j] = x
        elif op == COPY:
            for j in range(count):
                out[j] = a[j]
        elif op == ADD:
            for j in range(count):
                out[j] = a[j] + b[j]
        elif op == SUB:
            for j in range(count):
                out[j] = a[j] - b[j]
        elif op == MUL:
            for j in range(count):
                out[j] = a[j] * b[j]
        elif op == DIV:
            for j in range(count):
                out[j] = a[j] / b[j]
        elif op == FMA:
            c = _floats(where[code[i, 4]], count)
            for j in range(count):
                out[j] = fma(a[j], b[j], c[j])
        elif op == MAXIMUM:
            for j in range(count):
                out[j] = _greater(a[j], b[j])
        elif op == MINIMUM:
            for j in range(count):
                out[j] = _smaller(a[j], b[j])
        elif op == ADD_NUMBER:
            for j in range(count):
                out[j] = a[j] + x
        elif op == MUL_NUMBER:
            for j in range(count):
                out[j] = a[j] * x
        elif op == DIV_NUMBER:
            for j in range(count):
                out[j] = a[j] / x
        elif op == FROM_NUMBER:
            for j in range(count):
                out[j] = x - a[j]
        elif op == NUMBER_OVER:
            for j in range(count):
                out[j] = x / a[j]
        elif op == MAX_NUMBER:
            for j in range(count):
                out[j] = _greater(a[j], x)
        elif op == MIN_NUMBER:
            for j in range(count):
                out[j] = _smaller(a[j], x)
        elif op in (ADD_COLUMN, MUL_COLUMN):
            _with_column(where[code[i, 1]], where[code[i, 2]], where[code[i, 3]], rows, features, op)
        elif op == GT:
            for j in range(count):
                out[j] = _ONE if a[j] > b[j] else _ZERO
        elif op == GE:
            for j in range(count):
                out[j] = _ONE if a[j] >= b[j] else _ZERO
        elif op == EQ:
            for j in range(count):
                out[j] = _ONE if a[j] == b[j] else _ZERO
        elif op == WHERE:
            c = _floats(where[code[i, 4]], count)
            for j in range(count):
                out[j] = b[j] if a[j] != _ZERO else c[j]
        elif op == ABS:
            for j in range(count):
                out[j] = abs(a[j])
        elif op == SQRT:
            for j in range(count):
                out[j] = math.sqrt(a[j])
        elif op == RSQRT:
            for j in range(count):
                out[j] = _ONE / math.sqrt(a[j])
        elif op == EXP:
            for j in range(count):
                out[j] = exp(a[j])
        elif op == EXPM1_CODE:
            for j in range(count):
                out[j] = _expm1(a[j])
        elif op == LOG:
            for j in range(count):
                out[j] = _log(a[j])
        elif op == LOG1P:
            for j in range(count):
                out[j] = _log1p(a[j])
        elif op == TANH:
            for j in range(count):
                out[j] = _tanh(a[j])
        elif op == SIGMOID:
            for j in range(count):
                out[j] = _ONE / (_ONE + exp(-a[j]))
        elif op == ROW_SUM:
            _row_sums(where[code[i, 1]], where[code[i, 2]], rows, features)
        elif op == SPREAD:
            values = _floats(where[code[i, 2]], rows)
            for row in range(rows):
                part = _floats(where[code[i, 1]] + uintp(4 * row * features), features)
                value = values[row]
                for j in range(features):
                    part[j] = value
        elif op == ACTIVATION:
            for j in range(count):
                out[j] = a[j]
            first_term, second_term = _floats(where[code[i, 4]], count), _floats(where[code[i, 5]], count)
            activate_simply(out, b, first_term, second_term, uintp(0), count, int(x))
        elif op == TURN_HALVES:
            _turn_halves(where[code[i, 1]], where[code[i, 2]], rows, features)


@routine
def _with_column(out_at, a_at, column_at, rows, features, op):
    """Adds one value a row to a row's elements, or multiplies them by it."""
    wide_vectors()
    column = _floats(column_at, rows)
    for row in range(rows):
        step = uintp(4 * row * features)
        out, a, value = _floats(out_at + step, features), _floats(a_at + step, features), column[row]
        if op == ADD_COLUMN:
            for j in range(features):
                out[j] = a[j] + value
        else:
            for j in range(features):
                out[j] = a[j] * value


@routine
def _turn_halves(out_at, values_at, rows, features):
    """The second half of each row with its sign changed, then the first half; an even number of features."""
    wide_vectors()
    half = features // 2
    for row in range(rows):
        low = uintp(4 * row * features)
        high = low + uintp(4 * half)
        before, behind = _floats(values_at + low, half), _floats(values_at + high, half)
        first, second = _floats(out_at + low, half), _floats(out_at + high, half)
        for j in range(half):
            first[j] = -behind[j]
        for j in range(half):
            second[j] = before[j]


@routine
def _row_sums(out_at, values_at, rows, features):
    """Sums in float64 of rows that lie one behind the other."""
    out = _floats(out_at, rows)
    for row in range(rows):
        at = values_at + uintp(4 * row * features)
        total, whole = 0.0, features // 32
        if whole:
            total = sum_of_32_doubles(at, whole)
        rest = _floats(at, features)
        for j in range(32 * whole, features):
            total += rest[j]
        out[row] = float32(total)


@routine
def _gather(target, source, offsets, rows, features, stride, way, size):
    """Copies rows to ``target``, each from its offset on, elements ``stride`` apart; addresses, and elements."""
    wide_vectors()
    out = _floats(target, rows * features)
    if stride == 1 and way != BYTES:
        for row in range(rows):
            line = source + uintp(size * offsets[row])
            part, short = _floats(line, features), carray(pointer(line), features, np.uint16)
            made = _floats(target + uintp(4 * row * features), features)
            if way == BFLOAT16:
                for j in range(features):
                    made[j] = load(short[j])
            else:
                for j in range(features):
                    made[j] = part[j]
    else:
        for j in range(features):  # neighbouring rows may lie side by side in memory
            for row in range(rows):
                out[row * features + j] = _element(source + uintp(size * (offsets[row] + j * stride)), way)


@device
def _element(at, way):
    if way == BYTES:
        return float32(carray(pointer(at), 1, np.uint8)[0])
    return load(carray(pointer(at), 1, np.uint16)[0]) if way == BFLOAT16 else _floats(at, 1)[0]


@routine
def _round(target, source, count):
    """Writes float32 as bfloat16, to the nearest, ties to even; addresses."""
    wide_vectors()
    out, values = carray(pointer(target), count, np.uint16), _floats(source, count)
    for j in range(count):
        store(out, j, values[j] if values[j] == values[j] else _NAN)  # another's bits may round to a number


@routine
def _find_rows(offsets, leaf, sizes, first, rows):
    """Offset in elements at which each row of a leaf starts."""
    for row in range(rows):
        rest, offset = first + row, 0
        for axis in range(sizes.shape[0] - 1, -1, -1):
            size = sizes[axis]
            offset += rest % size * leaf[STRIDES + axis]
            rest //= size
        offsets[row] = offset


@shared
def run_rows(code, numbers, geometry, leaves, sizes, placed, addresses, outputs, start, stop):
    """Runs a program for the items start … stop - 1, each a block of rows and a group of evaluations.

    Args (all int64 unless told):
        code: [instructions, 7]. numbers: float32 [instructions].
        geometry: see :data:`ROWS`.
        leaves: [leaves, 5 + axes], see :data:`PER_EVALUATION`; they fill the first registers.
        sizes: [axes] of the rows.
        placed: [registers], in the scratch memory, in elements; -1 for float32 outputs, which are made in place.
        addresses: [leaves + outputs]; an output is [P, rows, features], or [P, rows] if narrow.
        outputs: [outputs, 3], its register, whether it is narrow, and whether it is bfloat16.
    """
    rows_in_all, features_in_all = geometry[ROWS], geometry[FEATURES]
    block, segment, groups = geometry[BLOCK], geometry[SEGMENT], geometry[GROUPS]
    count, constants, base, total = leaves.shape[0], geometry[CONSTANTS], geometry[BASE], geometry[TOTAL]
    segments = -(-features_in_all // segment)
    scratch = np.empty(geometry[SCRATCH] + 16, np.float32)
    bottom = uintp(scratch.ctypes.data)
    bottom += uintp(-int(bottom) & 63)
    where = np.empty(geometry[REGISTERS], np.uintp)
    offsets = np.empty((count, block), np.int64)
    for register in range(geometry[REGISTERS]):
        where[register] = bottom + uintp(4 * max(0, placed[register]))
    _execute(code, numbers, int64(0), constants, where, block, segment)
    for item in range(start, stop):
        place, group = item // groups, item % groups
        first, column = place // segments * block, place % segments * segment
        rows, features = min(block, rows_in_all - first), min(segment, features_in_all - column)
        for leaf in range(count):
            _find_rows(offsets[leaf], leaves[leaf], sizes, first, rows)
            if leaves[leaf, PER_EVALUATION] < 0:
                _read(
                    leaf, leaves, addresses, where, bottom, placed, offsets, rows, features, column, int64(0)
                )
        _execute(code, numbers, constants, base, where, rows, features)
        evaluations = geometry[EVALUATIONS]
        for p in range(group * evaluations // groups, (group + 1) * evaluations // groups):
            for leaf in range(count):
                if leaves[leaf, PER_EVALUATION] >= 0:
                    _read(leaf, leaves, addresses, where, bottom, placed, offsets, rows, features, column, p)
            for k in range(outputs.shape[0]):
                if not outputs[k, 2]:
                    at = _place_of(outputs[k, 1], rows_in_all, features_in_all, p, first, column)
                    where[outputs[k, 0]] = uintp(addresses[count + k] + 4 * at)
            _execute(code, numbers, base, total, where, rows, features)
            for k in range(outputs.shape[0]):
                if outputs[k, 2]:
                    at = _place_of(outputs[k, 1], rows_in_all, features_in_all, p, first, column)
                    size = rows if outputs[k, 1] else rows * features
                    _round(uintp(addresses[count + k] + 2 * at), where[outputs[k, 0]], size)
    keep(scratch)


@device
def _place_of(narrow, rows, features, p, row, column):
    """The element of an output at which a block begins."""
    return p * rows + row if narrow else (p * rows + row) * features + column


@routine
def _read(leaf, leaves, addresses, where, bottom, placed, offsets, rows, features, column, p):
    """Has a leaf's register hold its rows: it is pointed at them, or they are copied."""
    here, way = leaves[leaf], leaves[leaf, WAY]
    moved = 0 if here[PER_EVALUATION] < 0 else here[PER_EVALUATION] * p
    moved += 0 if here[NARROW] else column * here[LAST_STRIDE] * here[SIZE]
    source = uintp(addresses[leaf] + moved)
    if way == DIRECT:
        where[leaf] = source + uintp(4 * offsets[leaf, 0])
    else:
        length = 1 if here[NARROW] else features
        target = bottom + uintp(4 * placed[leaf])
        _gather(target, source, offsets[leaf], rows, length, here[LAST_STRIDE], way, here[SIZE])
