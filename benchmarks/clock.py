"""Times on the device: by CUDA events on a GPU, by the host's clock in the interpreter, where they mean nothing."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from time import perf_counter

import torch

Action = Callable[[], object]

BURST_SECONDS = 2e-3
"""Calls between two events: enough of them that a GPU is kept busy and the events' own cost vanishes."""

LONGEST_BURST = 1000
FEWEST_BURSTS = 3
WARM_UPS = 2
"""Calls before any timing, in which kernels are compiled."""


class Clock:
    """How long a call takes on a device.

    A burst of calls is queued at once, so a call's time is the longer of what the device computes and what Python
    needs to launch it. Nothing is flushed between calls: operands that fit in a cache stay there.

    Args:
        device: A GPU, or the CPU for Triton's interpreter.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def wait(self) -> None:
        """Until the device has done everything that was queued."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def times(self, action: Action, seconds: float) -> list[float]:
        """Seconds a call, one number a burst, for about that long; at least :data:`FEWEST_BURSTS` numbers.

        In the interpreter, where they mean nothing, a single one.
        """
        if self.device.type != "cuda":
            return [self._burst(action, 1)]
        for _ in range(WARM_UPS):
            action()
        self.wait()
        once = self._burst(action, 1)
        calls = max(1, min(LONGEST_BURST, int(BURST_SECONDS / max(once, 1e-9))))
        taken: list[float] = []
        stop = perf_counter() + seconds
        while len(taken) < FEWEST_BURSTS or perf_counter() < stop:
            taken.append(self._burst(action, calls))
        return taken

    def seconds(self, action: Action, seconds: float) -> float:
        """The median of :meth:`times`."""
        return median(self.times(action, seconds))

    def recorded(self, action: Action, calls: int = 1) -> Action:
        """That many calls as one CUDA graph, which Python launches at once; on the CPU just the calls.

        Args:
            action: Reads and writes the same memory every time, and never waits for the device.
            calls: In a graph.
        """
        if self.device.type != "cuda":
            return lambda: [action() for _ in range(calls)]
        stream = torch.cuda.Stream(self.device)
        stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(stream):
            for _ in range(WARM_UPS):
                action()
        torch.cuda.current_stream(self.device).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for _ in range(calls):
                action()
        return graph.replay

    def _burst(self, action: Action, calls: int) -> float:
        if self.device.type != "cuda":
            start = perf_counter()
            for _ in range(calls):
                action()
            return (perf_counter() - start) / calls
        before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        before.record()
        for _ in range(calls):
            action()
        after.record()
        after.synchronize()
        return before.elapsed_time(after) / 1000 / calls
