"""Fair timing in one process.

On the host contenders take turns, so that a busy machine slows them all alike (:func:`alternate`). On a device a
burst of calls is timed as a whole, by CUDA events (:class:`Clock`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count
from statistics import median
from time import perf_counter, sleep

import torch

Action = Callable[[], object]

ENOUGH = 3
"""Calls from which a median tells something."""


def alternate(
    actions: Sequence[Action],
    seconds: float,
    burst_seconds: float = 0.05,
    warm_up: int = 2,
    pause_seconds: float = 0.01,
) -> list[list[float]]:
    """Times every action, in turns of short bursts, until the time is used up.

    A burst runs one action at least once and until ``burst_seconds`` have passed, so that quick actions are
    measured as they run in a training loop, one after the other, and often enough. An action whose calls are longer
    than a burst waits, once it was timed :data:`ENOUGH` times, until the others have had as much time.

    Args:
        actions: Take nothing.
        seconds: For all of them together; each action has at least one turn.
        burst_seconds: Length of a turn.
        pause_seconds: Before each turn: threads of the contender before, which spin for some milliseconds, go to
            sleep.
        warm_up: Untimed calls of each action before the first turn, where compilation happens.

    Returns:
        For each action the seconds of each call.

    Raises:
        ValueError: The time is not positive.
    """
    if not seconds > 0:
        raise ValueError(f"seconds must be positive, got {seconds}.")
    for action in actions:
        for _ in range(warm_up):
            action()
    times: list[list[float]] = [[] for _ in actions]
    deadline = perf_counter() + seconds
    for round_number in count():
        for action, taken in zip(actions, times, strict=True):
            slow = len(taken) >= ENOUGH and min(taken) > burst_seconds > 0
            if slow and sum(taken) > round_number * burst_seconds:
                continue
            sleep(pause_seconds)
            turn = perf_counter()
            while True:
                start = perf_counter()
                action()
                end = perf_counter()
                taken.append(end - start)
                if end - turn >= burst_seconds:
                    break
        if perf_counter() >= deadline:
            break
    return times


def milliseconds(times: Sequence[float]) -> float:
    """The median, in milliseconds, with four significant digits."""
    return round_digits(1000 * median(times))


def round_digits(value: float, digits: int = 4) -> float:
    """Significant digits worth keeping in a record."""
    return float(f"{value:.{digits}g}")


BURST_SECONDS = 2e-3
"""Calls between two events: enough of them that a GPU is kept busy and the events' own cost vanishes."""

LONGEST_BURST = 1000
FEWEST_BURSTS = 3
IN_A_GRAPH = 20
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

    def device_seconds(self, action: Action, seconds: float) -> float:
        """The median of a call's seconds without Python's launches: of :data:`IN_A_GRAPH` in a CUDA graph."""
        calls = IN_A_GRAPH if self.device.type == "cuda" else 1
        return self.seconds(self.recorded(action, calls), seconds) / calls

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
