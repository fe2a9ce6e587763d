"""Difference of the maximum over windows: max_j δ_j + gap_j, every window from a table of places."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from zo_triton.kernels.launch import TRITON_DTYPES, blocks, launch
from zo_triton.kernels.numeric import divided, narrow

CONFIG = {"BLOCK": 512, "num_warps": 4}


@triton.jit
def _largest_kernel(
    out_ptr,
    difference_ptr,
    gaps_ptr,
    places_ptr,
    planes,
    results,
    tiles,
    stride_dp,
    stride_dm,
    WINDOW: tl.constexpr,
    OUT_DTYPE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Writes out [P, M, R]; difference [P, M, S], gaps [M, WINDOW, R] float32, places [WINDOW, R] int64."""
    pid = tl.program_id(0)
    p = (pid // tiles).to(tl.int64)
    start = (pid % tiles).to(tl.int64) * BLOCK
    plane, r = divided(start, tl.arange(0, BLOCK), results)
    mask = plane < planes
    source = difference_ptr + p * stride_dp + plane * stride_dm
    largest = tl.full((BLOCK,), float("-inf"), tl.float32)
    for j in range(WINDOW):
        place = tl.load(places_ptr + j * results + r, mask=mask, other=0)
        gap = tl.load(gaps_ptr + (plane * WINDOW + j) * results + r, mask=mask, other=0.0)
        change = tl.load(source + place, mask=mask, other=0.0).to(tl.float32)
        largest = tl.maximum(largest, change + gap, propagate_nan=tl.PropagateNan.ALL)
    tl.store(
        out_ptr + p * planes * results + start + tl.arange(0, BLOCK), narrow(largest, OUT_DTYPE), mask=mask
    )


def largest_difference(out: Tensor, difference: Tensor, gaps: Tensor, places: Tensor) -> None:
    """``out[p, m, r] = max_j difference[p, m, places[j, r]] + gaps[m, j, r]``, in float32.

    Args:
        out: [P, M, R].
        difference: [P, M, S].
        gaps: [M, J, R] float32.
        places: [J, R] int64, each in [0, S).
    """
    evaluations, planes, results = out.shape
    result = out if out.is_contiguous() else out.new_empty(out.shape)
    moved = difference if difference.stride(2) == 1 else difference.contiguous()
    tiles = blocks(planes * results, CONFIG["BLOCK"])
    launch(
        _largest_kernel,
        evaluations * tiles,
        result,
        out_ptr=result,
        difference_ptr=moved,
        gaps_ptr=gaps.contiguous(),
        places_ptr=places.contiguous(),
        planes=planes,
        results=results,
        tiles=tiles,
        stride_dp=moved.stride(0),
        stride_dm=moved.stride(1),
        WINDOW=places.shape[0],
        OUT_DTYPE=TRITON_DTYPES[out.dtype],
        **CONFIG,
    )
    if result is not out:
        out.copy_(result)
