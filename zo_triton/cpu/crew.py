"""The engine's threads, and shares of Python functions that they or their caller do.

Nobody counts on a thread. One may not be there at all where memory or processes are limited, it may end in the
middle for want of memory, and it does not exist in a forked child. So each share is claimed by whoever does it:
the caller, when it is through with its own, does those that no thread has begun, in the same cuts, so that no bit
depends on it.
"""

from __future__ import annotations

import ctypes
import itertools
import os
from _thread import allocate_lock, start_new_thread
from collections.abc import Callable, Sequence
from contextlib import suppress
from queue import SimpleQueue
from time import monotonic
from typing import TypeAlias

import numpy as np
import torch

from zo_triton.cpu.sharing import AWAKE, DONE, GIVEN, SLOT_WORDS, serve, watch

Function: TypeAlias = Callable[[int, int], None]

PAUSE_SECONDS = 1.0
"""Between two attempts to start a thread that can't be had."""

LOOK_SECONDS = 0.001
"""Between two looks at whether a thread is still there, after an error."""


def _find_core() -> Callable[[], int] | None:
    """What tells the core that the calling thread is on; None elsewhere than on Linux."""
    try:
        return ctypes.CDLL(None).sched_getcpu
    except (AttributeError, OSError, TypeError):
        return None


_core = _find_core()


def _leave(core: int) -> None:
    """Moves the calling thread off a core, if it is there: its caller is at work on it.

    A thread that slept for long may wake up on the core of whoever woke it. The system moves it too, but only
    after some tens of milliseconds, in which both threads' shares follow one another (measured: steps of 1.0
    instead of 0.45 ms). The set of allowed cores ends as it was.
    """
    if _core is None or _core() != core:
        return
    allowed = os.sched_getaffinity(0)
    if len(allowed) > 1 and core in allowed:
        os.sched_setaffinity(0, allowed - {core})
        os.sched_setaffinity(0, allowed)


class Share:
    """What one call of ``function(start, stop)`` does.

    Attributes:
        error: What it raised, None so far or if nothing.
    """

    __slots__ = ("_claim", "_done", "_function", "_start", "_stop", "error")

    def __init__(self, function: Function, start: int, stop: int) -> None:
        self._function, self._start, self._stop = function, start, stop
        self._claim, self._done = allocate_lock(), allocate_lock()
        self._done.acquire()
        self.error: BaseException | None = None

    def withhold(self) -> None:
        """Has nobody begin it any more."""
        self._claim.acquire(blocking=False)

    def do(self) -> bool:
        """Does it, unless somebody else has claimed it. What it raises is kept.

        From the claim on nothing here needs memory, so that who waits for the share is told whatever happens.
        """
        if not self._claim.acquire(blocking=False):
            return False
        try:
            self._function(self._start, self._stop)
        except BaseException as error:
            self.error = error
        finally:
            self._done.release()
        return True

    def wait(self, seconds: float = -1) -> bool:
        """Waits until it is done, or for so long; whether it is."""
        return self._done.acquire(timeout=seconds)


class Worker:
    """A thread that does shares, one at a time, and between them what its slot offers.

    Args:
        slot: [SLOT_WORDS] int64, this thread's alone.

    Attributes:
        share: The one that it may be at work on.
        has_ended: Whether it does nothing any more.

    Raises:
        MemoryError: There is too little for a thread.
        RuntimeError: The system starts none.
    """

    def __init__(self, slot: np.ndarray) -> None:
        slot[[AWAKE, GIVEN, DONE]] = 0
        self.share: Share | None = None
        self.has_ended = False
        self._slot, self._caller = slot, -1
        self._numbers = itertools.count(1)
        self._inbox: SimpleQueue[tuple[int, Share] | None] = SimpleQueue()
        # ``Thread.start`` would wait for ever for one that has no memory for its first line.
        start_new_thread(self._run, ())

    def _run(self) -> None:
        with suppress(MemoryError):  # its callers do without it, and the next one starts another
            try:
                self._serve()
            finally:
                self.share = None
                self.has_ended = True

    def _serve(self) -> None:
        torch.set_num_threads(1)
        done = 0
        while True:
            serve(self._slot, done)
            given = self._inbox.get()
            _leave(self._caller)
            if given is None:
                continue
            done, self.share = given
            self.share.do()
            self.share = given = None

    def wake(self) -> None:
        """Has the slot looked at, if it is not."""
        if not self._slot[AWAKE]:
            self._slot[AWAKE] = 1
            self._caller = -1 if _core is None else _core()
            self._inbox.put(None)

    def give(self, share: Share) -> None:
        """Has the thread do a share, if nobody else has when it comes to it."""
        self._caller = -1 if _core is None else _core()
        number = next(self._numbers)  # one that an interrupt lets fall is only skipped
        self._inbox.put((number, share))
        self._slot[GIVEN] = number

    def near_the_end(self) -> None:
        """Waits a moment for the share."""
        watch(self._slot)

    def let_go(self, share: Share) -> None:
        """Returns when the thread is not at work on a share that it was given, and never will be."""
        share.withhold()
        while self.share is share and not share.wait(LOOK_SECONDS):
            pass


class Crew:
    """The threads beside the caller's, for one call at a time.

    Args:
        count: How many at most.

    Attributes:
        slots: What they are offered, int64 [count, SLOT_WORDS]; that of a thread that is not there too.
    """

    def __init__(self, count: int) -> None:
        self.slots = np.zeros((count, SLOT_WORDS), np.int64)
        self._workers: list[Worker | None] = [None] * count
        self._not_before = 0.0

    def present(self, count: int) -> list[Worker]:
        """Those of the first so many that are there; who is missing is replaced, if that can be."""
        workers = self._workers[:count]
        if any(worker is None or worker.has_ended for worker in workers):
            self._complete(count)
            workers = self._workers[:count]
        return [worker for worker in workers if worker is not None]

    def _complete(self, count: int) -> None:
        if monotonic() < self._not_before:
            return
        for place, worker in enumerate(self._workers[:count]):
            if worker is None or worker.has_ended:
                self._workers[place] = None
                try:
                    self._workers[place] = Worker(self.slots[place])
                except (MemoryError, RuntimeError):
                    self._not_before = monotonic() + PAUSE_SECONDS
                    return


def share_out(function: Function, bounds: Sequence[int], workers: Sequence[Worker]) -> None:
    """Calls ``function`` between each two neighbours of ``bounds``, here and in as many threads as there are.

    However this ends, nobody is at work on it any more: an interrupt may come at any line, and the memory that the
    shares write to is the caller's.
    """
    shares = [Share(function, start, stop) for start, stop in itertools.pairwise(bounds[1:])]
    given = list(zip(shares, workers, strict=False))
    try:
        for share, worker in given:
            worker.give(share)
        function(bounds[0], bounds[1])
        for share in shares[len(given) :]:
            share.do()
        for share, worker in given:
            if not share.do():
                worker.near_the_end()
        for share, _ in given:
            share.wait()
        for share in shares:
            error, share.error = share.error, None  # neither keeps the other alive
            if error is not None:
                raise error
    except BaseException:
        _let_go(given)
        raise


def _let_go(given: Sequence[tuple[Share, Worker]]) -> None:
    """Waits for all threads, and only then lets another interrupt through."""
    interrupt: KeyboardInterrupt | None = None
    waiting = list(given)
    while waiting:
        try:
            share, worker = waiting[-1]
            worker.let_go(share)
            waiting.pop()
        except KeyboardInterrupt as another:
            interrupt = another
    if interrupt is not None:
        raise interrupt
