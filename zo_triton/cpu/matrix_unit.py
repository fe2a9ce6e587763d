"""Products in the processor's matrix unit (Intel's AMX), which multiplies bfloat16 and adds in float32.

A square (see ``squares``) is four registers of 16 × 16 sums, which stay in the unit from the first product to the
last. Sums below 2⁻¹²⁶, the smallest normal number, are zero.
"""

from __future__ import annotations

from functools import cache

import torch
from llvmlite import binding, ir
from numba import types, uintp
from numba.core import cgutils
from numba.extending import intrinsic

from zo_triton.cpu.compiling import device
from zo_triton.cpu.tiles import SMALL_PARTS, SMALL_PARTS_BESIDE_SIGNS, TILE_BYTES
from zo_triton.cpu.vectors import LANES

_I8, _I64 = ir.IntType(8), ir.IntType(64)
_POINTER = _I8.as_pointer()

_SHAPES = bytes([1, *[0] * 15, *[64, 0] * 8, *[0] * 16, *[16] * 8, *[0] * 8])
"""All eight registers hold 16 lines of 64 bytes: palette 1, line bytes from byte 16 on, lines from byte 48 on."""


@cache
def has_matrix_unit() -> bool:
    """Whether there is one, for the compiler too, and the system lets this process use it (asked for by this)."""
    if not torch.cpu._is_amx_tile_supported():
        return False
    return bool(binding.get_host_cpu_features().get("amx-bf16", False) and torch.cpu._init_amx())


@device
def begin_tiles():
    """Before the first product of a kernel: the unit's registers take their shape."""
    _configure()


@device
def end_tiles():
    """After the last: the system need not save the registers any more."""
    _release()


@device
def begin_square(sums, row, column_block):
    """Each line of the 32 × 32 sums in the unit becomes columns 32·column_block … of ``row``, float32 [columns]."""
    _begin(uintp(row.ctypes.data) + uintp(4 * LANES * column_block))


@device
def add_small_parts(sums, left, block, right, column_block):
    """Rows 32·block … of the left factor times columns 32·column_block … of the right one, but for first parts."""
    left_parts, right_parts = left.shape[2], right.shape[2]
    if left_parts > 1:
        left_at, right_at = _starts(left, block, right, column_block)
        if right_parts > 1:
            _add_small(left_at, right_at, left.shape[1], left_parts, right_parts)
        else:
            _add_small_beside_signs(left_at, right_at, left.shape[1], left_parts, right_parts)


@device
def add_first_parts(sums, left, block, right, column_block):
    """What is left of that product."""
    left_at, right_at = _starts(left, block, right, column_block)
    _add_large(left_at, right_at, left.shape[1], left.shape[2], right.shape[2])


@device
def _starts(left, block, right, column_block):
    """Addresses of the rows' tiles and of the columns'."""
    rows, columns = left[2 * block : 2 * block + 2], right[2 * column_block : 2 * column_block + 2]
    return uintp(rows.ctypes.data), uintp(columns.ctypes.data)


@device
def store_square(out, row, column_block, sums):
    """The sums go to rows ``row`` … and columns 32·column_block … of out, as far as it has them."""
    column, row_bytes = LANES * column_block, uintp(4 * out.shape[1])
    rows, columns = min(LANES, out.shape[0] - row), min(LANES, out.shape[1] - column)
    if rows == LANES and columns == LANES:
        _store(uintp(out.ctypes.data) + uintp(row) * row_bytes + uintp(4 * column), row_bytes)
        return
    _store(uintp(sums.ctypes.data), uintp(4 * LANES))
    for i in range(rows):
        for j in range(columns):
            out[row + i, column + j] = sums[i, j]


def _call(builder, name, kinds, *arguments):
    """Emits a call of one of LLVM's functions for the unit."""
    function = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(ir.VoidType(), kinds), f"llvm.x86.{name}"
    )
    builder.call(function, arguments)


@intrinsic
def _configure(context):
    def codegen(context, builder, signature, arguments):
        shapes = cgutils.global_constant(builder, "tile_shapes", cgutils.make_bytearray(_SHAPES))
        _call(builder, "ldtilecfg", [_POINTER], builder.bitcast(shapes, _POINTER))
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic
def _release(context):
    def codegen(context, builder, signature, arguments):
        _call(builder, "tilerelease", [])
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic
def _begin(context, row):
    """Registers 0 to 3 hold the sums, two squares above two others."""

    def codegen(context, builder, signature, arguments):
        for register in range(4):
            address = builder.add(arguments[0], _I64(64 * (register % 2)))
            _move(builder, "tileloadd64", register, address, _I64(0))
        return context.get_dummy_value()

    return types.void(types.uintp), codegen


def _adder(pairs):
    """Of products of parts: ``pairs`` are numbers of a part of the left factor and of one of the right."""

    @intrinsic
    def add(context, left, right, steps, left_parts, right_parts):
        """Tiles of the left factor come to registers 4 and 5, of the right one to 6 and 7, when they are due."""

        def codegen(context, builder, signature, arguments):
            left, right, steps, left_parts, right_parts = arguments
            with cgutils.for_range(builder, steps) as loop:
                tiles, held = {}, {}
                for register, start, parts in ((4, left, left_parts), (6, right, right_parts)):
                    step_bytes = builder.mul(parts, _I64(TILE_BYTES))
                    tiles[register] = builder.add(start, builder.mul(loop.index, step_bytes))
                    tiles[register + 1] = builder.add(tiles[register], builder.mul(steps, step_bytes))
                for pair in pairs:
                    for sums, *factors in ((0, 4, 6), (1, 4, 7), (2, 5, 6), (3, 5, 7)):
                        for register, part in zip(factors, pair, strict=True):
                            if held.get(register) != part:
                                held[register] = part
                                address = builder.add(tiles[register], _I64(TILE_BYTES * part))
                                _move(builder, "tileloadd64", register, address, _I64(64))
                        _call(builder, "tdpbf16ps", [_I8] * 3, *map(_I8, (sums, *factors)))
            return context.get_dummy_value()

        return types.void(types.uintp, types.uintp, *(types.intp,) * 3), codegen

    return add


_add_large, _add_small = _adder([(0, 0)]), _adder(SMALL_PARTS)
_add_small_beside_signs = _adder(SMALL_PARTS_BESIDE_SIGNS)


@intrinsic
def _store(context, out, row_bytes):
    def codegen(context, builder, signature, arguments):
        out, row_bytes = arguments
        for register in range(4):
            below = builder.mul(row_bytes, _I64(16 * (register // 2)))
            address = builder.add(builder.add(out, below), _I64(64 * (register % 2)))
            _move(builder, "tilestored64", register, address, row_bytes)
        return context.get_dummy_value()

    return types.void(types.uintp, types.uintp), codegen


def _move(builder, name, register, address, stride):
    """Emits the load or store of a register, whose lines lie ``stride`` bytes apart."""
    pointer = builder.inttoptr(address, _POINTER)
    _call(builder, name, [_I8, _POINTER, _I64], _I8(register), pointer, stride)
