"""Products in float32, in vector registers: a left factor's rows times a right factor's panels of 32 columns.

A left factor lies in rows, in memory for a multiple of :data:`ROWS` of them; a right one in panels, float32
[columns / 32, inner, 32]. What lies beyond the factors makes only what is beyond the product. An element is a sum
in one order, whatever rows and columns are made with it: of :data:`TOGETHER` products after the other of the first
factors, then of the second.
"""

from __future__ import annotations

from llvmlite import binding, ir
from numba import types, uintp
from numba.core import cgutils
from numba.extending import intrinsic

from zo_triton.cpu.compiling import routine
from zo_triton.cpu.vectors import LANES, WIDTH, broadcast, load_vector, store_vector

ROWS = 8 if binding.get_host_cpu_features().get("avx512f") else 2
"""Rows of 32 sums that the registers hold beside a line of a panel: 16 of 32 vectors, or of AVX2's 8 of 16."""

TOGETHER = 16
"""Products that are added before the total grows. The error of attention is 0.6 times that of sums in one piece."""

_VECTOR, _I64 = ir.VectorType(ir.FloatType(), WIDTH), ir.IntType(64)


@routine
def add_products(out, rows, panels, hidden, of_scores, factor, first, second):
    """``out = factor·(left @ right + other_left @ other_right)`` of attention, for so many rows and panels.

    out: float32, with memory for whole blocks of rows. first, second: whether the product is added, its left and
    its right factor. hidden: −1, or how many keys the first row sees before its own; each row sees one more than
    the row above. of_scores: whether keys are columns, which are left as they were where no row of a block sees
    them; else they are the inner axis, and there is nothing to add of those.
    """
    (taken, left, right), (other_taken, other_left, other_right) = first, second
    inner, out_pitch, pitch, other_pitch = right.shape[1], out.shape[1], left.shape[1], other_left.shape[1]
    out_at, left_at = uintp(out.ctypes.data), uintp(left.ctypes.data)
    other_left_at = uintp(other_left.ctypes.data)
    for panel in range(panels):
        right_at, other_right_at = uintp(right[panel].ctypes.data), uintp(other_right[panel].ctypes.data)
        for row in range(0, rows, ROWS):
            seen = hidden + row + ROWS
            if of_scores and hidden >= 0 and LANES * panel >= seen:
                continue
            count = inner if of_scores or hidden < 0 else min(inner, seen)
            _add_rows(
                out_at + uintp(4 * (row * out_pitch + LANES * panel)), out_pitch, factor,
                (
                    left_at + uintp(4 * row * pitch), uintp(pitch), right_at, uintp(count if taken else 0),
                    other_left_at + uintp(4 * row * other_pitch), uintp(other_pitch), other_right_at,
                    uintp(count if other_taken else 0),
                ),
            )  # fmt: skip


@intrinsic
def _add_rows(context, out, out_pitch, factor, operands):
    """Some rows and 32 columns of :func:`add_products`, by address.

    operands: of either product the left factor, how far its rows are apart, the right one, and the inner size.
    """

    def codegen(context, builder, signature, arguments):
        out, out_pitch, factor, operands = arguments
        operands = cgutils.unpack_tuple(builder, operands)
        totals = _zeros(builder)
        for product in (operands[:4], operands[4:]):
            _emit_product(builder, totals, *product)
        wide = broadcast(builder, factor)
        for row in range(ROWS):
            for half in range(2):
                total = builder.load(totals[row][half])
                place = builder.add(builder.mul(out_pitch, _I64(row)), _I64(WIDTH * half))
                at = builder.add(out, builder.mul(place, _I64(4)))
                store_vector(builder, builder.fmul(wide, total), at)
        return context.get_dummy_value()

    return types.void(types.uintp, types.intp, types.float32, operands), codegen


def _zeros(builder):
    """Emits sums that are zero: [ROWS][2] places."""
    return [[cgutils.alloca_once_value(builder, _VECTOR(None)) for _ in range(2)] for _ in range(ROWS)]


def _emit_product(builder, totals, left, pitch, right, count):
    """Emits one product, which the totals grow by, some of the inner axis at a time."""
    kind = ir.FunctionType(_VECTOR, [_VECTOR] * 3)
    multiply_add = cgutils.get_or_insert_function(builder.module, kind, f"llvm.fma.v{WIDTH}f32")
    sums = _zeros(builder)
    pieces = builder.udiv(builder.add(count, _I64(TOGETHER - 1)), _I64(TOGETHER))
    with cgutils.for_range(builder, pieces) as piece:
        first = builder.mul(piece.index, _I64(TOGETHER))
        left_at = builder.add(left, builder.mul(first, _I64(4)))
        right_at = builder.add(right, builder.mul(first, _I64(4 * LANES)))
        rest = builder.sub(count, first)
        some = builder.select(builder.icmp_unsigned("<", rest, _I64(TOGETHER)), rest, _I64(TOGETHER))
        for halves in sums:
            for place in halves:
                builder.store(_VECTOR(None), place)
        with cgutils.for_range(builder, some) as loop:
            line = builder.add(right_at, builder.mul(loop.index, _I64(4 * LANES)))
            inputs = [load_vector(builder, builder.add(line, _I64(4 * WIDTH * half))) for half in range(2)]
            for row, halves in enumerate(sums):
                place = builder.add(builder.mul(pitch, _I64(row)), loop.index)
                at = builder.add(left_at, builder.mul(place, _I64(4)))
                wide = broadcast(builder, builder.load(builder.inttoptr(at, ir.FloatType().as_pointer())))
                for total, value in zip(halves, inputs, strict=True):
                    builder.store(builder.call(multiply_add, [wide, value, builder.load(total)]), total)
        for halves, grown in zip(totals, sums, strict=True):
            for total, part in zip(halves, grown, strict=True):
                builder.store(builder.fadd(builder.load(total), builder.load(part)), total)
