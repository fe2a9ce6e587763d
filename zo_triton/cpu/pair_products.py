"""Products of bfloat16 pairs in vector registers (AVX-512 BF16), on processors that have no matrix unit.

One instruction adds two products to each of 16 sums: those of a word of a left factor's row, which is two values,
and of a line of a right factor, two values of each of 16 columns. That is twice as many as float32 has in a clock.
Factors lie as the matrix unit's do, see ``tiles``. The square of 32 × 32 sums is in the nearest cache, a quarter of
it in registers while products are added. Sums below 2⁻¹²⁶, the smallest normal number, are zero.
"""

from __future__ import annotations

from llvmlite import ir
from numba import types, uintp
from numba.core import cgutils
from numba.extending import intrinsic

from zo_triton.cpu.bfloat16 import add_pairs, load_word, load_words
from zo_triton.cpu.compiling import device, routine
from zo_triton.cpu.tiles import SMALL_PARTS, SMALL_PARTS_BESIDE_SIGNS, TILE_BYTES
from zo_triton.cpu.vectors import LANES, WIDTH, load_vector, store_vector

_I64 = ir.IntType(64)
_SUMS = ir.VectorType(ir.FloatType(), WIDTH)

_ROWS = 8
"""Of the square at a time: 16 registers of sums, 8 for words of the left factor, 2 for a line of the right one."""


@device
def begin_tiles():
    """Nothing: vector registers need no preparation."""


@device
def end_tiles():
    """Nothing either."""


@device
def begin_square(sums, row, column_block):
    """Each line of ``sums`` becomes columns 32·column_block … of ``row``."""
    source = row[LANES * column_block : LANES * (column_block + 1)]
    for i in range(LANES):
        sums[i] = source


@device
def add_small_parts(sums, left, block, right, column_block):
    """Rows 32·block … of the left factor times columns 32·column_block … of the right one, but for first parts."""
    if left.shape[2] > 1 and right.shape[2] > 1:
        for left_part, right_part in SMALL_PARTS:
            _add_parts(sums, left, block, left_part, right, column_block, right_part)
    elif left.shape[2] > 1:
        for left_part, right_part in SMALL_PARTS_BESIDE_SIGNS:
            _add_parts(sums, left, block, left_part, right, column_block, right_part)


@device
def add_first_parts(sums, left, block, right, column_block):
    """What is left of that product."""
    _add_parts(sums, left, block, 0, right, column_block, 0)


@routine
def _add_parts(sums, left, block, left_part, right, column_block, right_part):
    """The same for one part of each."""
    steps, lines, columns = (
        left.shape[1],
        left[2 * block :, 0, left_part],
        right[2 * column_block :, 0, right_part],
    )
    for row in range(0, LANES, _ROWS):
        rows_at = uintp(lines[row // 16, row % 16 :].ctypes.data)
        _add_rows(
            uintp(sums[row:].ctypes.data), rows_at, uintp(columns[0].ctypes.data), uintp(columns[1].ctypes.data),
            steps, left.shape[2], right.shape[2],
        )  # fmt: skip


@device
def store_square(out, row, column_block, sums):
    """The sums go to rows ``row`` … and columns 32·column_block … of out, as far as it has them."""
    column = LANES * column_block
    rows, columns = min(LANES, out.shape[0] - row), min(LANES, out.shape[1] - column)
    for i in range(rows):
        target, source = out[row + i, column : column + columns], sums[i]
        for j in range(columns):
            target[j] = source[j]


@intrinsic
def _add_rows(context, sums, rows, first, second, steps, left_parts, right_parts):
    """Eight lines of sums, [8, 32], grow by eight rows times two tiles of columns, by address, in all steps."""

    def codegen(context, builder, signature, arguments):
        sums, rows, *columns, steps, left_parts, right_parts = arguments
        places = [(i, half, cgutils.alloca_once(builder, _SUMS)) for i in range(_ROWS) for half in range(2)]
        targets = [builder.add(sums, _I64(4 * (LANES * i + WIDTH * half))) for i, half, _ in places]
        for (*_, place), target in zip(places, targets, strict=True):
            builder.store(load_vector(builder, target), place)
        with cgutils.for_range(builder, steps) as step:
            tiles = [
                builder.add(start, builder.mul(step.index, builder.mul(parts, _I64(TILE_BYTES))))
                for start, parts in ((rows, left_parts), *((each, right_parts) for each in columns))
            ]
            with cgutils.for_range(builder, _I64(16)) as line:
                on = builder.mul(line.index, _I64(64))
                pairs = [load_words(builder, builder.add(tile, on)) for tile in tiles[1:]]
                word_at = builder.add(tiles[0], builder.mul(line.index, _I64(4)))
                words = [load_word(builder, builder.add(word_at, _I64(64 * i))) for i in range(_ROWS)]
                for i, half, place in places:
                    total = add_pairs(builder, builder.load(place), words[i], pairs[half])
                    builder.store(total, place)
        for (*_, place), target in zip(places, targets, strict=True):
            store_vector(builder, builder.load(place), target)
        return context.get_dummy_value()

    return types.void(*(types.uintp,) * 4, *(types.intp,) * 3), codegen
