"""Time on the device itself, between events in its stream; on a CPU, which only proves the plumbing, wall-clock."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from statistics import median
from time import perf_counter

import torch

WARM_UPS = 3
MOST_REPEATS = 200


def milliseconds_of(action: Callable[[], object], device: torch.device, seconds: float = 0.3) -> float:
    """Median time of one call, the host's share of it hidden where the device has a queue of calls.

    Args:
        action: Launches work on the device.
        device: Where.
        seconds: About how long to measure.

    Returns:
        Milliseconds.
    """
    if device.type != "cuda":
        start = perf_counter()
        action()
        return 1000 * (perf_counter() - start)
    for _ in range(WARM_UPS):
        action()
    once = _timed(action, device, 1)[0]
    return median(_timed(action, device, max(5, min(MOST_REPEATS, int(1000 * seconds / max(once, 1e-3))))))


def _timed(action: Callable[[], object], device: torch.device, repeats: int) -> list[float]:
    torch.cuda.synchronize(device)
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(repeats + 1)]
    marks[0].record()
    for mark in marks[1:]:
        action()
        mark.record()
    torch.cuda.synchronize(device)
    return [start.elapsed_time(end) for start, end in pairwise(marks)]
