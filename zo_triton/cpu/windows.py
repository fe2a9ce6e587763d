"""Difference of the maximum over windows: max_j δ_j + gap_j, every window from a table of places.

Neighbouring windows mostly read neighbouring places, or every second one. The table is cut into *runs* of up to
16 results for which that holds; with even and odd places apart, a run's elements lie together either way.
"""

from __future__ import annotations

import numpy as np
import torch
from numba import uintp
from torch import Tensor

from zo_triton.cpu.arrays import as_array
from zo_triton.cpu.compiling import device
from zo_triton.cpu.scalars import load, store
from zo_triton.cpu.sharing import shared
from zo_triton.cpu.threads import together
from zo_triton.cpu.vectors import WIDTH, largest_sums

PIECES = 16
"""Into how many the planes are cut, for threads to take: each forms the runs anew."""


def largest_difference(out: Tensor, difference: Tensor, gaps: Tensor, places: Tensor) -> None:
    """Same contract as the reference; fastest if ``out`` and ``difference`` are contiguous."""
    result = out if out.is_contiguous() else torch.empty(out.shape, dtype=out.dtype, device="cpu")
    target, moved = as_array(result), as_array(difference.contiguous())
    table, distances = places.long().contiguous().numpy(), gaps.contiguous().numpy()
    planes = out.shape[1]
    # As an unsigned number a negative place is behind any plane's end.
    if table.size and table.view(np.uint64).max() >= difference.shape[2]:
        raise ValueError(f"places must be in [0, {difference.shape[2]}), got {table.min()} to {table.max()}.")
    # By planes, not by evaluations: one plane's gaps serve them all from the cache.
    together(_largest_kernel, (target, moved, distances, table), planes, grain=-(-planes // PIECES))
    if result is not out:
        out.copy_(result)


@shared
def _largest_kernel(out, difference, gaps, places, start, stop):
    """Planes start … stop - 1 of out [P, M, R]; difference [P, M, S], gaps [M, J, R], places [J, R]."""
    (count, results), size = places.shape, difference.shape[2]
    step = places[0, 1] - places[0, 0] if results > 1 else 1
    step = 2 if step == 2 else 1
    half = (size + 1) // 2 if step == 2 else size
    runs = np.empty((results, 2), np.int64)
    runs = runs[: _find_runs(runs, places, step)]
    starts = np.empty((runs.shape[0], count), np.int64)
    for i in range(runs.shape[0]):
        for j in range(count):
            place = places[j, runs[i, 0]]
            starts[i, j] = (place & 1) * half + (place >> 1) if step == 2 else place
    # Whole vectors are read from them: what lies behind the end is read, not used.
    values = np.zeros(2 * half + WIDTH, np.float32)
    gap = np.zeros((count, results + WIDTH), np.float32)
    largest = np.zeros(results + WIDTH, np.float32)
    to, value_at, gap_at = uintp(largest.ctypes.data), uintp(values.ctypes.data), uintp(gap.ctypes.data)
    for plane in range(start, stop):
        gap[:, :results] = gaps[plane]
        for p in range(out.shape[0]):
            source, target = difference[p, plane], out[p, plane]
            if step == 2:
                for i in range(size // 2):
                    at = uintp(i)
                    values[at] = load(source[at + at])
                    values[uintp(half) + at] = load(source[at + at + uintp(1)])
                if size % 2 == 1:
                    values[half - 1] = load(source[size - 1])
            else:
                for i in range(size):
                    values[uintp(i)] = load(source[uintp(i)])
            for i in range(runs.shape[0]):
                # Lanes behind the run's end are overwritten by the next run, which comes after.
                at, starts_at = uintp(4) * uintp(runs[i, 0]), uintp(starts[i].ctypes.data)
                largest_sums(to + at, value_at, starts_at, gap_at + at, gap.shape[1], count)
            for r in range(results):
                store(target, uintp(r), largest[uintp(r)])


@device
def _find_runs(runs, places, step):
    """Writes each run's first result and length into runs [R, 2]; how many there are."""
    count, results = places.shape
    found, length = 0, 0
    for r in range(results):
        together = 0 < length < WIDTH
        for j in range(count):
            together = together and places[j, r] - places[j, r - 1] == step
        if not together:
            runs[found, 0] = r
            found, length = found + 1, 0
        length += 1
        runs[found - 1, 1] = length
    return found
