"""Factors for squares of products: bfloat16, or float32 as three bfloat16 parts, in tiles.

A tile is sixteen cache lines that lie together: of a left factor 16 rows of 32 values, of a right factor 16 columns
of 32 values, two neighbours of a column to a word. A factor's first, second and third parts are tiles that follow
one another.

A float32 number is the sum of three bfloat16 numbers, whose 24 digits are its own, from 2⁻¹⁰³ = 10⁻³¹ on. Below, a
part of less than 2⁻¹²⁶ is zero, as the unit would take it. What bfloat16 rounds to infinity, from 3.39·10³⁸ on, has
NaN among its parts.
"""

from __future__ import annotations

import numpy as np
import torch
from llvmlite import ir
from numba import types, uint32, uintp
from numba.extending import intrinsic

from zo_triton.cpu.addresses import emit_fetch, keep
from zo_triton.cpu.compiling import device, routine
from zo_triton.cpu.signs import line_of_floats
from zo_triton.cpu.turning import turned_square
from zo_triton.cpu.vectors import LANES, WIDTH, broadcast, load_vector

DEPTH = 32
"""Products that a tile adds to each of its sums."""

TILE_BYTES = 1024
"""Sixteen lines of 64."""

PARTS = 3
"""Of a float32 number."""

SMALL_PARTS, SMALL_PARTS_BESIDE_SIGNS = ((2, 0), (1, 0), (1, 1), (0, 1), (0, 2)), ((2, 0), (1, 0))
"""Parts, of a left and a right factor, whose products are added before those of the largest two.

Added later, each would round the sums at their full size. One of a pair is in the pair before, too, and so in a
register already.
"""

AHEAD = 2048
"""Bytes ahead that rows are asked for while they are packed: they come from far, and that takes longer."""

_I64 = ir.IntType(64)
_HALVES, _WORDS = ir.VectorType(ir.IntType(16), WIDTH), ir.VectorType(ir.IntType(32), WIDTH)

_ONES = np.uint32(0x3F803F80)
"""Two bfloat16 of 1."""


class _BFloat16(ir.Type):
    """LLVM's own type, to which it rounds in one instruction; llvmlite has no name for it."""

    def _to_string(self) -> str:
        return "bfloat"


_ROUNDED = ir.VectorType(_BFloat16(), WIDTH)


def padded(count: int) -> int:
    """The next multiple of 32: rows, columns and products of a factor in tiles."""
    return -(-count // LANES) * LANES


def right_tiles(inner: int, columns: int, parts: int) -> np.ndarray:
    """Memory for a right factor [inner, columns], rounded up: uint32 [columns / 16, inner / 32, parts, 16, 16].

    Tiles begin at cache lines, here and in kernels: a line that straddles two costs two loads.
    """
    shape = padded(columns) // 16, padded(inner) // DEPTH, parts, 16, 16
    return torch.empty(shape, dtype=torch.uint32, device="cpu").numpy()


@device
def new_right(inner, columns, parts):
    """The same in a kernel."""
    shape = 2 * ((columns + LANES - 1) // LANES), (inner + DEPTH - 1) // DEPTH, parts, 16, 16
    return line_of_floats(shape[0] * shape[1] * parts * (TILE_BYTES // 4)).view(np.uint32).reshape(shape)


@device
def new_left(rows, inner, parts):
    """Memory for a left factor [rows, inner], rounded up: uint16 [rows / 16, inner / 32, parts, 16, 32]."""
    shape = 2 * ((rows + LANES - 1) // LANES), (inner + DEPTH - 1) // DEPTH, parts, 16, DEPTH
    return line_of_floats(shape[0] * shape[1] * parts * (TILE_BYTES // 4)).view(np.uint16).reshape(shape)


@routine
def pack_columns(tiles, matrix, transposed, inner, columns):
    """A right factor, zeros beyond: matrix[:inner, :columns], or matrix[:columns, :inner] if ``transposed``."""
    parts, row_bytes = tiles.shape[2], uintp(matrix.strides[0])
    turned, edge = np.empty((parts, 16, 16), np.uint32), np.empty((DEPTH, 16), np.float32)
    turned_at, edge_at = uintp(turned.ctypes.data), uintp(edge.ctypes.data)
    for block in range(tiles.shape[0]):
        for step in range(tiles.shape[1]):
            column, row = 16 * block, DEPTH * step
            target = uintp(tiles[block, step].ctypes.data)
            if columns - column < 16 or inner - row < DEPTH:
                for i in range(DEPTH):
                    for j in range(16):
                        inside = row + i < inner and column + j < columns
                        if inside:
                            edge[i, j] = (
                                matrix[column + j, row + i] if transposed else matrix[row + i, column + j]
                            )
                        else:
                            edge[i, j] = np.float32(0.0)
                _pack_pairs(target, edge_at, uintp(4 * 16), parts)
            elif not transposed:
                _pack_pairs(target, uintp(matrix[row, column:].ctypes.data), row_bytes, parts)
            else:
                source = uintp(matrix[column, row:].ctypes.data)
                for j in range(16):
                    _split_line(turned_at + uintp(64 * j), source, np.float32(1.0), parts)
                    source += row_bytes
                for part in range(parts):
                    _turn_words(target + uintp(TILE_BYTES * part), turned_at + uintp(TILE_BYTES * part))
    keep(turned)


@device
def _pack_pairs(target, source, row_bytes, parts):
    """Tiles of 32 rows of 16 values, by address: each line has two of the rows."""
    for i in range(16):
        _split_pairs(target + uintp(64 * i), source, source + row_bytes, parts)
        source += uintp(2) * row_bytes


@routine
def pack_signs(tiles, words):
    """Packed signs as a right factor; words: uint32 [at least columns, inner / 32], see ``signs.draw_signs``."""
    for block in range(tiles.shape[0]):
        for step in range(tiles.shape[1]):
            tile, column = tiles[block, step, 0], words[16 * block : 16 * block + 16, step]
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
    parts, edge = tiles.shape[2], np.empty(DEPTH, np.float32)
    for row in range(16 * tiles.shape[0]):
        count = inner if row < rows else 0
        values = source[first + row if row < rows else 0]
        target, at = uintp(tiles[row // 16, 0, 0, row % 16 :].ctypes.data), uintp(values.ctypes.data)
        for step in range(tiles.shape[1]):
            if count - DEPTH * step < DEPTH:
                at = _fill_edge(edge, values, DEPTH * step, count)
            _split_line(target, at, factor, parts)
            target, at = target + uintp(parts * TILE_BYTES), at + uintp(4 * DEPTH)


@routine
def pack_sums(tiles, base, first, moved, moved_first, rows, inner, factor):
    """The same of ``factor·(base + moved)``, whose rows begin at ``first`` and at ``moved_first``."""
    parts, edge, moved_edge = tiles.shape[2], np.empty(DEPTH, np.float32), np.empty(DEPTH, np.float32)
    for row in range(16 * tiles.shape[0]):
        count = inner if row < rows else 0
        ours, theirs = base[first + row if row < rows else 0], moved[moved_first + row if row < rows else 0]
        target = uintp(tiles[row // 16, 0, 0, row % 16 :].ctypes.data)
        ours_at, theirs_at = uintp(ours.ctypes.data), uintp(theirs.ctypes.data)
        for step in range(tiles.shape[1]):
            if count - DEPTH * step < DEPTH:
                ours_at = _fill_edge(edge, ours, DEPTH * step, count)
                theirs_at = _fill_edge(moved_edge, theirs, DEPTH * step, count)
            _split_sum(target, ours_at, theirs_at, factor, parts)
            target, ours_at = target + uintp(parts * TILE_BYTES), ours_at + uintp(4 * DEPTH)
            theirs_at += uintp(4 * DEPTH)


@device
def _fill_edge(edge, values, start, count):
    """The address of ``edge``, which becomes values[start : start + 32], zeros from ``count`` on."""
    for j in range(DEPTH):
        edge[j] = values[start + j] if start + j < count else np.float32(0.0)
    return uintp(edge.ctypes.data)


def _in_parts(builder, values, parts, store):
    """Emits the parts of vectors of float32: ``store`` gets the number of each part and its bits, uint16 each."""

    def rest_of(values, part):
        bits = [builder.bitcast(builder.fptrunc(value, _ROUNDED), _HALVES) for value in values]
        store(part, bits)
        wide = [builder.shl(builder.zext(half, _WORDS), _WORDS([16] * WIDTH)) for half in bits]
        return [
            builder.fsub(value, builder.bitcast(word, value.type))
            for value, word in zip(values, wide, strict=True)
        ]

    rest = rest_of(values, 0)
    with builder.if_then(builder.icmp_signed(">", parts, _I64(1))):
        for part in range(1, PARTS):
            rest = rest_of(rest, part)


def _halves(builder, source):
    """Emits the loads of 32 float32 as two vectors."""
    halves = []
    for half in range(2):
        at = builder.add(source, _I64(4 * WIDTH * half))
        halves.append(load_vector(builder, at))
        emit_fetch(builder, builder.add(at, _I64(AHEAD)), locality=3)
    return halves


def _lines_in_parts(builder, values, parts, target):
    """Emits the parts of 32 values, and their stores: as lines of a tile each."""

    def store(part, bits):
        for half, each in enumerate(bits):
            at = builder.add(target, _I64(TILE_BYTES * part + 2 * WIDTH * half))
            builder.store(each, builder.inttoptr(at, _HALVES.as_pointer()), align=2)

    _in_parts(builder, values, parts, store)


@intrinsic
def _split_line(context, target, source, factor, parts):
    """32 values factor·source in parts, by address."""

    def codegen(context, builder, signature, arguments):
        target, source, factor, parts = arguments
        wide = broadcast(builder, factor)
        _lines_in_parts(
            builder, [builder.fmul(wide, half) for half in _halves(builder, source)], parts, target
        )
        return context.get_dummy_value()

    return types.void(types.uintp, types.uintp, types.float32, types.intp), codegen


@intrinsic
def _split_sum(context, target, first, second, factor, parts):
    """32 values factor·(first + second) in parts, by address."""

    def codegen(context, builder, signature, arguments):
        target, *terms, factor, parts = arguments
        wide = broadcast(builder, factor)
        pairs = zip(*(_halves(builder, term) for term in terms), strict=True)
        _lines_in_parts(builder, [builder.fmul(wide, builder.fadd(*pair)) for pair in pairs], parts, target)
        return context.get_dummy_value()

    return types.void(*(types.uintp,) * 3, types.float32, types.intp), codegen


@intrinsic
def _split_pairs(context, target, first, second, parts):
    """16 values of two rows in parts, by address: in a word the first row's is the lower one."""

    def codegen(context, builder, signature, arguments):
        target, first, second, parts = arguments

        def store(part, bits):
            low, high = (builder.zext(each, _WORDS) for each in bits)
            words = builder.or_(low, builder.shl(high, _WORDS([16] * WIDTH)))
            at = builder.add(target, _I64(TILE_BYTES * part))
            builder.store(words, builder.inttoptr(at, _WORDS.as_pointer()), align=4)

        _in_parts(builder, [load_vector(builder, row) for row in (first, second)], parts, store)
        return context.get_dummy_value()

    return types.void(*(types.uintp,) * 3, types.intp), codegen


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
