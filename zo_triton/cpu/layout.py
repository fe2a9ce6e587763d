"""From a batch [N, features] to the engine's layout, feature by feature, so that samples fill the vector lanes."""

from __future__ import annotations

import numpy as np
from numba import float32
from torch import Tensor

from zo_triton.cpu.compiling import routine
from zo_triton.cpu.sharing import shared
from zo_triton.cpu.threads import together
from zo_triton.cpu.vectors import LANES

SMALL_ELEMENTS = 1 << 13
"""Below this many a second thread costs more than it gives."""


def in_runs(batch: Tensor) -> np.ndarray:
    """[N, in] as float32 [⌈N/32⌉, in, 32], what products of signs read; N and in filled up to multiples of 32."""
    samples, inner = batch.shape
    runs = np.empty(((samples + LANES - 1) // LANES, (inner + LANES - 1) // LANES * LANES, LANES), np.float32)
    together(_runs_kernel, (runs, _rows(batch)), len(runs), alone=batch.numel() < SMALL_ELEMENTS)
    return runs


def turned(batch: Tensor) -> np.ndarray:
    """[N, in] as float32 [in, N]."""
    out = np.empty(tuple(batch.shape)[::-1], np.float32)
    runs = (batch.shape[0] + LANES - 1) // LANES
    together(_turned_kernel, (out, _rows(batch)), runs, alone=batch.numel() < SMALL_ELEMENTS)
    return out


def _rows(batch: Tensor) -> np.ndarray:
    return batch.detach().float().contiguous().numpy()


@routine
def turn_run(x, batch, run):
    """Samples 32·run … of a batch [N, in], zeros after the last: x float32 [at least in, 32]."""
    count = min(LANES, batch.shape[0] - run * LANES)
    x[:, count:] = float32(0.0)
    _turn(x, 0, batch, run * LANES, count)


@routine
def _turn(out, at, batch, first, count):
    """``out[row, at + j] = batch[first + j, row]`` for ``count`` samples."""
    inner = batch.shape[1]
    for start in range(0, inner, LANES):
        # A tile at a time: its rows and its columns lie in the cache together.
        for j in range(count):
            source = batch[first + j]
            for row in range(start, min(start + LANES, inner)):
                out[row, at + j] = source[row]


@shared
def _runs_kernel(runs, batch, start, stop):
    """Runs start … stop - 1, zeros after the last feature."""
    for run in range(start, stop):
        runs[run, batch.shape[1] :] = float32(0.0)
        turn_run(runs[run], batch, run)


@shared
def _turned_kernel(out, batch, start, stop):
    """Samples 32·start … 32·stop - 1."""
    for run in range(start, stop):
        at = run * LANES
        _turn(out, at, batch, at, min(LANES, batch.shape[0] - at))
