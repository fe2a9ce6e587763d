"""What a race's time is: each step's on the host, or a block of queued steps' on a device.

Beside it stands the CPU time of all threads, which tells a method that is quick because it keeps every core busy.
Neither clock runs while batches are formed, accuracies are looked at or anything is compiled.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import repeat
from statistics import median
from time import perf_counter, process_time, sleep
from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks.contenders.contender import Contender
from benchmarks.timing import WARM_UPS, Clock
from zo_triton._threads import torch_threads
from zo_triton.optim.errors import NonFiniteLossError

Step = Callable[[Tensor, Tensor], float | Tensor]
Batches = Iterable[tuple[Tensor, Tensor]]

REST_SECONDS = 0.1
"""Before each run: torch's threads, which spin on for 20 ms after the method before, go to sleep."""


TRIED_STEPS, TRIED_SECONDS = 20, 0.1
"""A turn's most steps and seconds where numbers of threads are compared."""

TURNS = 3
"""Of each number of threads."""

LOOK_STEPS, LOOK_SHARE = 5, 50
"""Accuracy is looked at after so many steps more, or after a 50th of those taken, which bounds a time's error."""

CLOSE_LOOKS = 10
"""The host looks after each of so many first steps: small tasks are done by then, after 4 steps or 6."""


class Block(NamedTuple):
    """Steps between two looks at the accuracy.

    Attributes:
        seconds: Of each step; the step that was not finite is the last.
        cpu_seconds: Of the whole block and all threads of this process.
        diverged: Whether there was one.
    """

    seconds: list[float]
    cpu_seconds: float
    diverged: bool


class HostClock:
    """Each step is timed by itself and has all threads; what happens between steps has one.

    Torch's other threads would spin for some milliseconds after a batch or an accuracy, into the next step's time.

    Args:
        count: How many all threads are; None takes torch's.

    Attributes:
        count: That number.
    """

    def __init__(self, count: int | None = None) -> None:
        self.count = torch.get_num_threads() if count is None else count

    def steps_to_look(self, taken: int) -> int:
        """How many steps after those ``taken`` the accuracy is looked at next."""
        return 1 if taken < CLOSE_LOOKS else _steps_to_look(taken)

    def threads(self) -> AbstractContextManager[None]:
        """All of a step's threads, inside a ``with``."""
        return torch_threads(self.count)

    def suited(self, contender: Contender, batch: tuple[Tensor, Tensor]) -> HostClock:
        """A clock whose threads are one, or all: those that a contender's steps are quicker with.

        Small networks' steps gain nothing by a second thread, and wait for it.

        Args:
            contender: Is prepared, and trains on the batch for a while.
            batch: Its inputs and targets.
        """
        if self.count == 1:
            return self
        tried = [HostClock(1), self]
        taken: list[list[float]] = [[], []]
        for clock in tried:
            with clock.threads():
                contender.prepare(*batch)
            clock.take(contender.step, repeat(batch, WARM_UPS), math.inf)
        for _ in range(TURNS):
            for clock, seconds in zip(tried, taken, strict=True):
                with clock.quiet():
                    seconds += clock.take(contender.step, repeat(batch, TRIED_STEPS), TRIED_SECONDS).seconds
        return min(zip(tried, map(median, taken), strict=True), key=lambda pair: pair[1])[0]

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """What surrounds a run: a rest before it, and one thread for all but its steps."""
        sleep(REST_SECONDS)
        with torch_threads(1):
            yield

    def take(self, step: Step, batches: Batches, seconds: float) -> Block:
        """Trains on the batches, or on fewer if the seconds are used up or a loss is not finite."""
        taken: list[float] = []
        cpu_seconds = 0.0
        for x, y in batches:
            with self.threads():
                cpu_start, start = process_time(), perf_counter()
                try:
                    finite = math.isfinite(step(x, y))
                except NonFiniteLossError:
                    finite = False
                taken.append(perf_counter() - start)
                cpu_seconds += process_time() - cpu_start
            if not finite:
                return Block(taken, cpu_seconds, True)
            seconds -= taken[-1]
            if seconds <= 0:
                break
        return Block(taken, cpu_seconds, False)


class DeviceClock:
    """A block of steps is queued at once and timed up to the device's last.

    Waiting for the device after each step would slow down the methods that need not. A step's time is its block's
    mean, and only the loss of a block's last step is looked at.

    Args:
        device: A GPU, or the CPU for Triton's interpreter.

    Attributes:
        count: None: how many threads the host has makes no difference.
    """

    count = None

    def __init__(self, device: torch.device) -> None:
        self._device = Clock(device)

    def steps_to_look(self, taken: int) -> int:
        """The same; each look waits for the device, so none is close."""
        return _steps_to_look(taken)

    def threads(self) -> AbstractContextManager[None]:
        """Leaves the threads as they are."""
        return nullcontext()

    def suited(self, contender: Contender, batch: tuple[Tensor, Tensor]) -> DeviceClock:
        """Itself."""
        return self

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
        cpu_start, start = process_time(), perf_counter()
        try:
            for x, y in waiting:
                taken += 1
                loss = step(x, y)
        except NonFiniteLossError:
            loss = math.nan
        self._device.wait()
        elapsed = perf_counter() - start
        return Block([elapsed / taken] * taken, process_time() - cpu_start, not math.isfinite(loss))


def _steps_to_look(taken: int) -> int:
    return max(LOOK_STEPS, taken // LOOK_SHARE)


RaceClock = HostClock | DeviceClock
