"""Products of samples' rows with Wᵀ, in float32 or in pairs of bfloat16, for as many samples as a near cache holds.

Wᵀ lies in panels of 32 columns. One serves all samples before the next one does, so that it comes from afar once. A
sum has the order of its inputs.
"""

from __future__ import annotations

import numpy as np
import torch
from numba import uintp
from torch import Tensor

from zo_triton.cpu.arrays import as_array
from zo_triton.cpu.bfloat16 import ROWS, pair_rows
from zo_triton.cpu.compiling import device, kernel, routine
from zo_triton.cpu.scalars import load, store
from zo_triton.cpu.turning import turn_rows
from zo_triton.cpu.vectors import LANES, dense_rows

SAMPLES_TOGETHER = 64
"""Whose differences meet a panel one after the other, 32 KiB of 256 inputs in float32, a multiple of 32."""

_SAMPLES = 4
"""Whose products with a panel, in float32, keep the processor busiest, see ``dense_rows``. In pairs it is ROWS."""


def in_panels(weight: Tensor, paired: bool) -> np.ndarray:
    """Wᵀ, [in, out], as products read it, rounded up with zeros.

    Float32 [out / 32, in, 32], or if ``paired`` bfloat16 bits, uint16 [out / 32, in / 2, 64]: two neighbours of a
    column lie side by side.
    """
    inner, rows = weight.shape
    transposed, count = not weight.is_contiguous(), -(-rows // LANES)
    shape = (count, -(-inner // 2), 2 * LANES) if paired else (count, inner, LANES)
    # torch's memory begins at a cache line: a vector that straddles two costs two loads.
    panels = torch.zeros(shape, dtype=torch.uint16 if paired else torch.float32, device="cpu").numpy()
    _panels_kernel(panels, as_array(weight.T.contiguous() if transposed else weight), transposed)
    return panels


@kernel
def _panels_kernel(panels, matrix, transposed):
    """Of a matrix [out, in] if ``transposed``, else [in, out]; float32 or bfloat16 bits."""
    rows, inner = matrix.shape[0 if transposed else 1], matrix.shape[1 if transposed else 0]
    # Of an odd number of inputs the last one's neighbour is zero.
    panel = np.zeros((inner + inner % 2, LANES), np.float32)
    for place in range(panels.shape[0]):
        first, target = LANES * place, panels[place]
        lanes = min(LANES, rows - first)
        if lanes < LANES:
            panel[:] = np.float32(0.0)
        if transposed:
            turn_rows(panel, matrix, first, lanes)
        else:
            for i in range(inner):
                source, line = matrix[i, first : first + lanes], panel[i]
                for j in range(lanes):
                    line[j] = load(source[j])
        neighbours = panels.shape[2] // LANES
        for i in range(panels.shape[1]):
            line = target[i]
            for k in range(neighbours):
                source = panel[neighbours * i + k]
                for j in range(LANES):
                    store(line, neighbours * j + k, source[j])


@device
def lines_for(panels, inner):
    """Memory for 64 samples' inputs as the product reads them, and for its results."""
    width = panels.shape[1] * (panels.shape[2] // LANES)
    return np.zeros((SAMPLES_TOGETHER, width), panels.dtype), np.empty((ROWS, LANES), np.float32)


@routine
def multiply_panels(out, moved, panels, lines, made):
    """``out = moved @ Wᵀ`` for at most 64 samples: out [n, rows], moved [at least n, in]; float32 or bfloat16 bits.

    lines, made: what :func:`lines_for` gives.
    """
    (count, rows), inner, paired = out.shape, moved.shape[1], panels.itemsize == 2
    together, pitch = ROWS if paired else _SAMPLES, lines.shape[1]
    source_at, out_at, made_at = uintp(moved.ctypes.data), uintp(out.ctypes.data), uintp(made.ctypes.data)
    if count < together or moved.itemsize != panels.itemsize or pitch != inner:
        source_at = uintp(lines.ctypes.data)
        for i in range(count):
            source, line = moved[i], lines[i]
            for column in range(inner):
                store(line, column, load(source[column]))
    for panel in range(panels.shape[0]):
        panel_at, row = uintp(panels[panel].ctypes.data), LANES * panel
        lies = paired and out.itemsize == 4 and rows - row >= LANES and count >= together
        for i in range(0, count, together):
            # The last ones are multiplied again with those before them where they are fewer.
            first = max(0, min(i, count - together))
            at = source_at + uintp(panels.itemsize * pitch * first)
            if not paired:
                dense_rows(made_at, at, inner, panel_at, LANES, inner)
            elif lies:
                target_at = out_at + uintp(4) * (uintp(rows) * uintp(first) + uintp(row))
                pair_rows(target_at, at, pitch // 2, 1, panel_at, rows, panels.shape[1])
            else:
                pair_rows(made_at, at, pitch // 2, 1, panel_at, LANES, panels.shape[1])
            for k in range(0 if lies else min(together, count)):
                target, totals = out[first + k, row : row + LANES], made[k]
                for j in range(target.size):
                    store(target, j, totals[j])
