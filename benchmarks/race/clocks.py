"""What a race's time is: each step's on the host, or a block of queued steps' on a device.

Neither clock runs while batches are formed, accuracies are looked at or anything is compiled.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from time import perf_counter, sleep
from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks.timing import Clock
from zo_triton._threads import torch_threads
from zo_triton.optim.errors import NonFiniteLossError

Step = Callable[[Tensor, Tensor], float | Tensor]
Batches = Iterable[tuple[Tensor, Tensor]]

REST_SECONDS = 0.1
"""Before each run: torch's threads, which spin on for 20 ms after the method before, go to sleep."""


class Block(NamedTuple):
    """Steps between two looks at the accuracy.

    Attributes:
        seconds: Of each step; the step that was not finite is the last.
        diverged: Whether there was one.
    """

    seconds: list[float]
    diverged: bool


class HostClock:
    """Each step is timed by itself and has all threads; what happens between steps has one.

    Torch's other threads would spin for some milliseconds after a batch or an accuracy, into the next step's time.
    """

    def __init__(self) -> None:
        self._threads = torch.get_num_threads()

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """What surrounds a run: a rest before it, and one thread for all but its steps."""
        sleep(REST_SECONDS)
        with torch_threads(1):
            yield

    def take(self, step: Step, batches: Batches, seconds: float) -> Block:
        """Trains on the batches, or on fewer if the seconds are used up or a loss is not finite."""
        taken: list[float] = []
        for x, y in batches:
            with torch_threads(self._threads):
                start = perf_counter()
                try:
                    finite = math.isfinite(step(x, y))
                except NonFiniteLossError:
                    finite = False
                taken.append(perf_counter() - start)
            if not finite:
                return Block(taken, True)
            seconds -= taken[-1]
            if seconds <= 0:
                break
        return Block(taken, False)


class DeviceClock:
    """A block of steps is queued at once and timed up to the device's last.

    Waiting for the device after each step would slow down the methods that need not. A step's time is its block's
    mean, and only the loss of a block's last step is looked at.

    Args:
        device: A GPU, or the CPU for Triton's interpreter.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = Clock(device)

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """What surrounds a run: the device has done all that was queued before."""
        self._device.wait()
        yield

    def take(self, step: Step, batches: Batches, seconds: float) -> Block:
        """Trains on all of the batches, whatever the seconds, unless a method finds its loss not finite."""
        waiting, taken = list(batches), 0
        loss: float | Tensor = math.nan
        self._device.wait()
        start = perf_counter()
        try:
            for x, y in waiting:
                taken += 1
                loss = step(x, y)
        except NonFiniteLossError:
            loss = math.nan
        self._device.wait()
        elapsed = perf_counter() - start
        return Block([elapsed / taken] * taken, not math.isfinite(loss))


RaceClock = HostClock | DeviceClock
