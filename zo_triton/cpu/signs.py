"""Multiplying by random signs, four columns at a time, without writing a single sign out.

For U with entries ±1, every group of four columns can only ever contribute one of 16 signed sums of its four
inputs. They are formed once for 32 samples; each row of U then adds the entry that its four packed bits name
(the "method of the four Russians": Arlazarov, Dinic, Kronrod, Faradzhev, 1970). One vector load and one add
do the work of four multiply-adds, in exact float32.
"""

from __future__ import annotations

import numpy as np
from numba import uintp

from zo_triton.cpu.compiling import device
from zo_triton.cpu.vectors import LANES, add_signed_sums, write_signed_sums

GROUPS = 8
"""Groups of four columns in one 32-bit word."""


@device
def sign_product(totals, first_row, words, x, tables, lanes):
    """``totals = U @ x`` for the first ``lanes`` samples, a multiple of 32.

    totals: float32 [block / 32, at least rows, 32], written from ``first_row`` on; 32 samples of all rows lie
    together, or the cache's sets would not hold them. words: uint32 [rows, width], the packed signs of U.
    x: float32 [32·width, block], zero in rows beyond the matrix's columns. tables: float32 [8, 16, 32], scratch.
    """
    rows, width = words.shape
    row_bytes, total_bytes, table_bytes = uintp(4 * x.shape[1]), uintp(4 * LANES), uintp(4 * LANES * 16)
    tables_at = uintp(tables.ctypes.data)
    for lane in range(0, lanes, LANES):
        run = totals[lane // LANES, first_row : first_row + rows]
        run[:] = np.float32(0.0)
        x_at = uintp(x.ctypes.data) + uintp(4 * lane)
        totals_at = uintp(run.ctypes.data)
        for column in range(width):
            for group in range(GROUPS):
                four_rows = x_at + uintp(32 * column + 4 * group) * row_bytes
                write_signed_sums(tables_at + uintp(group) * table_bytes, four_rows, row_bytes)
            for row in range(rows):
                add_signed_sums(totals_at + uintp(row) * total_bytes, tables_at, words[row, column])
