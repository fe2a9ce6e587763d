"""Products in the processor's matrix unit (Intel's AMX): bfloat16 factors, float32 sums.

A tile is sixteen cache lines that lie together: of a left factor 16 rows of 32 values, of a right factor 16 columns
of 32 values, two neighbours of a column to a word. Four squares of 16 × 16 sums stay in the unit from the first
product to the last, so that an element's sum has one order, whatever rows and columns are made with it.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from llvmlite import binding, ir
from numba import types, uint16, uint32, uintp
from numba.core import cgutils
from numba.extending import intrinsic

from zo_triton.cpu.compiling import device, routine
from zo_triton.cpu.scalars import round_bfloat16
from zo_triton.cpu.turning import turned_square
from zo_triton.cpu.vectors import LANES, WIDTH, broadcast, load_vector, store_bfloat16

DEPTH = 32
"""Products that a tile adds to each of its sums."""

TILE_BYTES = 1024
"""Sixteen lines of 64."""

_I8, _I32, _I64 = ir.IntType(8), ir.IntType(32), ir.IntType(64)
_POINTER = _I8.as_pointer()
_WORDS = ir.VectorType(_I32, WIDTH)

_ONES = np.uint32(0x3F803F80)
"""Two bfloat16 of 1."""

_SHAPES = bytes([1, *[0] * 15, *[64, 0] * 8, *[0] * 16, *[16] * 8, *[0] * 8])
"""All eight registers hold 16 lines of 64 bytes: palette 1, line bytes from byte 16 on, lines from byte 48 on."""


@cache
def has_matrix_unit() -> bool:
    """Whether there is one, for the compiler too, and the system lets this process use it (asked for by this)."""
    if not torch.cpu._is_amx_tile_supported():
        return False
    return bool(binding.get_host_cpu_features().get("amx-bf16", False) and torch.cpu._init_amx())


def padded(count: int) -> int:
    """The next multiple of 32: rows, columns and products of a factor in tiles."""
    return -(-count // LANES) * LANES


def right_tiles(inner: int, columns: int) -> np.ndarray:
    """Memory for a right factor [inner, columns], rounded up: pairs, uint32 [columns / 16, inner / 32, 16, 16]."""
    return np.empty((padded(columns) // 16, padded(inner) // DEPTH, 16, 16), np.uint32)


@device
def _pair(first, second):
    """Two float32 as bfloat16 in a word."""
    return round_bfloat16(first) | (round_bfloat16(second) << uint32(16))


@routine
def pack_columns(tiles, matrix, transposed, inner, columns):
    """A right factor, zeros beyond: matrix[:inner, :columns], or matrix[:columns, :inner] if ``transposed``."""
    words = np.zeros((16, 16), np.uint32)
    for block in range(tiles.shape[0]):
        for step in range(tiles.shape[1]):
            column, row = 16 * block, DEPTH * step
            width, height = min(16, columns - column), min(DEPTH, inner - row)
            tile = tiles[block, step]
            if width < 16 or height < DEPTH:
                _pack_corner(tile, matrix, transposed, row, column, height, width)
            elif not transposed:
                for i in range(16):
                    low, high, line = matrix[row + 2 * i], matrix[row + 2 * i + 1], tile[i]
                    low, high = low[column : column + 16], high[column : column + 16]
                    for j in range(16):
                        line[j] = _pair(low[j], high[j])
            else:
                for j in range(16):
                    source, line = matrix[column + j, row : row + DEPTH], words[j]
                    for i in range(16):
                        line[i] = _pair(source[2 * i], source[2 * i + 1])
                _turn_words(uintp(tile.ctypes.data), uintp(words.ctypes.data))


@routine
def _pack_corner(tile, matrix, transposed, row, column, height, width):
    """A tile of fewer rows or columns than it holds: zeros beyond."""
    tile[:] = uint32(0)
    for i in range(max(0, height)):
        for j in range(max(0, width)):
            value = matrix[column + j, row + i] if transposed else matrix[row + i, column + j]
            tile[i // 2, j] |= round_bfloat16(value) << uint32(16 * (i % 2))


@routine
def pack_signs(tiles, words):
    """Packed signs as a right factor; words: uint32 [at least columns, inner / 32], see ``signs.draw_signs``."""
    for block in range(tiles.shape[0]):
        for step in range(tiles.shape[1]):
            tile, column = tiles[block, step], words[16 * block : 16 * block + 16, step]
            negative = np.empty(16, np.uint32)
            for j in range(16):
                negative[j] = ~column[j]
            for i in range(16):
                line, low = tile[i], uint32(2 * i)
                for j in range(16):
                    pair = negative[j] >> low
                    minus = ((pair & uint32(1)) << uint32(15)) | ((pair & uint32(2)) << uint32(30))
                    line[j] = _ONES | minus


@routine
def pack_rows(tiles, source, first, rows, inner, factor):
    """``factor·source[first : first + rows, :inner]`` as a left factor, float32; zeros in all that is beyond."""
    for row in range(16 * tiles.shape[0]):
        lines, whole = tiles[row // 16, :, row % 16], inner // DEPTH if row < rows else 0
        target, values = uintp(lines.ctypes.data), source[first + row if row < rows else 0]
        at = uintp(values.ctypes.data)
        for _ in range(whole):
            _round_line(target, at, factor)
            target, at = target + uintp(TILE_BYTES), at + uintp(4 * DEPTH)
        for step in range(whole, tiles.shape[1]):
            for j in range(DEPTH):
                i = DEPTH * step + j
                inside = row < rows and i < inner
                lines[step, j] = uint16(round_bfloat16(factor * values[i])) if inside else uint16(0)


@routine
def pack_sums(tiles, base, first, moved, moved_first, rows, inner, factor):
    """The same of ``factor·(base + moved)``, whose rows begin at ``first`` and at ``moved_first``."""
    for row in range(16 * tiles.shape[0]):
        lines, whole = tiles[row // 16, :, row % 16], inner // DEPTH if row < rows else 0
        ours, theirs = base[first + row if row < rows else 0], moved[moved_first + row if row < rows else 0]
        target = uintp(lines.ctypes.data)
        ours_at, theirs_at = uintp(ours.ctypes.data), uintp(theirs.ctypes.data)
        for _ in range(whole):
            _round_sum(target, ours_at, theirs_at, factor)
            target, ours_at = target + uintp(TILE_BYTES), ours_at + uintp(4 * DEPTH)
            theirs_at += uintp(4 * DEPTH)
        for step in range(whole, tiles.shape[1]):
            for j in range(DEPTH):
                i = DEPTH * step + j
                inside = row < rows and i < inner
                lines[step, j] = (
                    uint16(round_bfloat16(factor * (ours[i] + theirs[i]))) if inside else uint16(0)
                )


@device
def begin_tiles():
    """Before the first product of a kernel: the unit's registers take their shape."""
    _configure()


@device
def end_tiles():
    """After the last: the system need not save the registers any more."""
    _release()


@device
def begin_square(row, column_block):
    """Each line of the 32 × 32 sums in the unit becomes columns 32·column_block … of ``row``, float32 [columns]."""
    _begin(uintp(row.ctypes.data) + uintp(4 * LANES * column_block))


@device
def add_to_square(left, block, right, column_block):
    """The sums grow by rows 32·block … of the left factor times columns 32·column_block … of the right one."""
    left_at, right_at = left[2 * block : 2 * block + 2], right[2 * column_block : 2 * column_block + 2]
    _add(uintp(left_at.ctypes.data), uintp(right_at.ctypes.data), left.shape[1])


@device
def store_square(out, row, column_block, scratch):
    """The sums go to rows ``row`` … and columns 32·column_block … of out, as far as it has them.

    out: float32 [rows, columns]. scratch: float32 [32, 32].
    """
    column, row_bytes = LANES * column_block, uintp(4 * out.shape[1])
    rows, columns = min(LANES, out.shape[0] - row), min(LANES, out.shape[1] - column)
    if rows == LANES and columns == LANES:
        _store(uintp(out.ctypes.data) + uintp(row) * row_bytes + uintp(4 * column), row_bytes)
        return
    _store(uintp(scratch.ctypes.data), uintp(4 * LANES))
    for i in range(rows):
        for j in range(columns):
            out[row + i, column + j] = scratch[i, j]


@intrinsic
def _round_line(context, target, source, factor):
    """32 values factor·source as bfloat16, by address."""

    def codegen(context, builder, signature, arguments):
        target, source, factor = arguments
        wide = broadcast(builder, factor)
        for half in range(DEPTH // WIDTH):
            value = builder.fmul(wide, load_vector(builder, builder.add(source, _I64(4 * WIDTH * half))))
            store_bfloat16(builder, value, builder.add(target, _I64(2 * WIDTH * half)))
        return context.get_dummy_value()

    return types.void(types.uintp, types.uintp, types.float32), codegen


@intrinsic
def _round_sum(context, target, first, second, factor):
    """32 values factor·(first + second) as bfloat16, by address."""

    def codegen(context, builder, signature, arguments):
        target, *terms, factor = arguments
        wide = broadcast(builder, factor)
        for half in range(DEPTH // WIDTH):
            values = [load_vector(builder, builder.add(term, _I64(4 * WIDTH * half))) for term in terms]
            value = builder.fmul(wide, builder.fadd(*values))
            store_bfloat16(builder, value, builder.add(target, _I64(2 * WIDTH * half)))
        return context.get_dummy_value()

    return types.void(*(types.uintp,) * 3, types.float32), codegen


@intrinsic
def _turn_words(context, target, source):
    """``target[i, j] = source[j, i]`` for 16 × 16 words, by address."""

    def codegen(context, builder, signature, arguments):
        target, source = arguments
        kind = _WORDS.as_pointer()
        rows = [
            builder.load(builder.inttoptr(builder.add(source, _I64(64 * i)), kind), align=4)
            for i in range(WIDTH)
        ]
        for i, row in enumerate(turned_square(builder, rows)):
            builder.store(row, builder.inttoptr(builder.add(target, _I64(64 * i)), kind), align=4)
        return context.get_dummy_value()

    return types.void(types.uintp, types.uintp), codegen


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


@intrinsic
def _add(context, left, right, steps):
    """Tiles of the left factor come to registers 4 and 5, of the right one to 6 and 7, when they are due."""

    def codegen(context, builder, signature, arguments):
        left, right, steps = arguments
        row_bytes = builder.mul(steps, _I64(TILE_BYTES))
        tiles = {4: left, 5: builder.add(left, row_bytes), 6: right, 7: builder.add(right, row_bytes)}
        with cgutils.for_range(builder, steps) as loop:
            shift = builder.mul(loop.index, _I64(TILE_BYTES))
            for due, product in (((4, 6), (0, 4, 6)), ((7,), (1, 4, 7)), ((5,), (2, 5, 6)), ((), (3, 5, 7))):
                for register in due:
                    _move(builder, "tileloadd64", register, builder.add(tiles[register], shift), _I64(64))
                _call(builder, "tdpbf16ps", [_I8] * 3, *(_I8(register) for register in product))
        return context.get_dummy_value()

    return types.void(types.uintp, types.uintp, types.intp), codegen


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
