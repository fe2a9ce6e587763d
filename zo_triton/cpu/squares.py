"""Products of factors in tiles, a square of 32 × 32 sums at a time, in whatever the processor has for bfloat16.

That is a matrix unit, which multiplies many times as much a clock as vectors of float32 do, or else products of
pairs, twice as much. An element's sum has one order, whatever rows and columns are made with it. A factor is
bfloat16, or float32 in three parts (see ``tiles``). In parts beside signs, which bfloat16 holds, it takes three
products, each exact; of two such factors the six are taken that reach into the 24 digits.

Kernels call these between ``begin_tiles()`` and ``end_tiles()``. Memory for the square, ``sums``, float32 [32, 32],
holds it from ``begin_square`` to ``store_square`` or not, as the processor has registers for it:

- ``begin_square(sums, row, column_block)``: each line of the square becomes columns 32·column_block … of ``row``,
  float32 [columns].
- ``add_small_parts(sums, left, block, right, column_block)``: it grows by rows 32·block … of the left factor times
  columns 32·column_block … of the right one, but for the product of the first parts. Each has one part or three, or
  the left one three and the right one, signs, one.
- ``add_first_parts(…)``: it grows by that one, after the small parts of all products: later, each of them would be
  rounded at the sums' full size.
- ``store_square(out, row, column_block, sums)``: it goes to rows ``row`` … and columns 32·column_block … of
  ``out``, float32 [rows, columns], as far as that has them.
"""

from __future__ import annotations

from typing import Any

from zo_triton.cpu import matrix_unit, pair_products
from zo_triton.cpu.bfloat16 import is_native
from zo_triton.cpu.matrix_unit import has_matrix_unit
from zo_triton.cpu.tiles import PARTS

_made_in: Any = matrix_unit if has_matrix_unit() else pair_products

begin_tiles, end_tiles = _made_in.begin_tiles, _made_in.end_tiles
begin_square, store_square = _made_in.begin_square, _made_in.store_square
add_small_parts, add_first_parts = _made_in.add_small_parts, _made_in.add_first_parts


def most_parts() -> int:
    """Parts in which factors gain at most: three in the matrix unit, one in pairs, 0 where there is neither."""
    if has_matrix_unit():
        return PARTS
    return int(is_native())
