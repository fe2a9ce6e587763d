"""Both cores busy without oversubscription.

torch's OpenMP threads spin for a while after each parallel region, and a second pool beside them takes turns
with the spinning ones. So the engine's work runs in the calling thread and a few of its own, each with torch
held to a single thread: generation, GEMM and epilogue of one share of the directions follow one another in one
cache, and there is nothing to wait for but the end.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from queue import SimpleQueue
from typing import Any, NamedTuple

import numpy as np
import torch

from zo_triton._threads import torch_threads
from zo_triton.cpu.sharing import AWAKE, GIVEN, NOBODY, SLOT_WORDS, SharedKernel, serve, watch

Share = Callable[[int, int], None]


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


class _Given(NamedTuple):
    """A share of a Python function, and the queue of its own call, in which the answer goes."""

    number: int
    function: Share
    start: int
    stop: int
    answers: SimpleQueue[BaseException | None]


class _Worker:
    """A thread that runs shares of Python functions, one at a time, and between them what its slot offers."""

    def __init__(self, slot: np.ndarray) -> None:
        self._slot, self._caller = slot, -1
        self._numbers = itertools.count(1)
        self._inbox: SimpleQueue[_Given | None] = SimpleQueue()
        threading.Thread(target=self._run, name="zo_triton", daemon=True).start()

    def _run(self) -> None:
        torch.set_num_threads(1)
        done = 0
        while True:
            serve(self._slot, done)
            given = self._inbox.get()
            _leave(self._caller)
            if given is None:
                continue
            result = None
            try:
                given.function(given.start, given.stop)
            except BaseException as error:  # handed to the caller, whatever it is
                result = error
            done = given.number
            given.answers.put(result)
            del given, result

    def wake(self) -> None:
        """Has the slot looked at, if it is not."""
        if not self._slot[AWAKE]:
            self._slot[AWAKE] = 1
            self._caller = -1 if _core is None else _core()
            self._inbox.put(None)

    def start(
        self, function: Share, start: int, stop: int, answers: SimpleQueue[BaseException | None]
    ) -> None:
        """Gives the thread a share, whose answer goes in ``answers``."""
        self._caller = -1 if _core is None else _core()
        number = next(self._numbers)  # one that an interrupt lets fall is only skipped
        self._inbox.put(_Given(number, function, start, stop, answers))
        self._slot[GIVEN] = number

    def near_the_end(self) -> None:
        """Waits a moment for the share."""
        watch(self._slot)

    def settle(self) -> None:
        """Waits until the thread is through with whatever it was given."""
        answers: SimpleQueue[BaseException | None] = SimpleQueue()
        self.start(_nothing, 0, 0, answers)
        answers.get()


def _nothing(start: int, stop: int) -> None:
    """No share of anything."""


class _Crew(NamedTuple):
    """The threads beside the caller's, and what they are offered: int64 [threads, SLOT_WORDS]."""

    workers: list[_Worker]
    slots: np.ndarray


@cache
def _crew(count: int) -> _Crew:
    slots = np.zeros((count, SLOT_WORDS), np.int64)
    return _Crew([_Worker(slot) for slot in slots], slots)


# A forked child has none of the threads.
os.register_at_fork(after_in_child=_crew.cache_clear)
_lock = threading.Lock()
_held = 0


@contextmanager
def one_pool() -> Iterator[None]:
    """Keeps torch's own threads out while the engine's are at work; :func:`parallel` still uses all of them.

    Between two of the engine's operations the closure's base runs on one thread then. It is one evaluation
    among many; torch's threads, spinning after it, would take half of a core from those.
    """
    global _held
    threads = torch.get_num_threads()
    if _held or threads == 1:
        yield
        return
    try:
        _held = threads
        with torch_threads(1):
            yield
    finally:
        _held = 0


def thread_count() -> int:
    """Threads that work at most, the caller's included."""
    return _held or torch.get_num_threads()


def parallel(function: Share, count: int) -> None:
    """Calls ``function(start, stop)`` on contiguous shares of ``range(count)``, one for each torch thread.

    A call from inside a share, or while another thread's call is under way, runs in the caller alone.
    """
    threads = thread_count()
    shares = min(threads, count)
    if shares <= 1 or not _lock.acquire(blocking=False):
        function(0, count)
        return
    try:
        with one_pool():
            workers = _crew(threads - 1).workers[: shares - 1]
            _share_out(function, [count * share // shares for share in range(shares + 1)], workers)
    finally:
        _lock.release()


def together(
    kernel: SharedKernel, arguments: tuple[Any, ...], count: int, grain: int = 1, alone: bool = False
) -> None:
    """Runs a kernel on ``range(count)``, ``grain`` items at a time, on as many threads as torch has.

    The caller alone does it if it is told to, in a share, or while another thread's call is under way.

    Raises:
        MemoryError: A thread had too little.
    """
    threads = thread_count()
    others = min(threads, -(-count // grain)) - 1
    if alone or others < 1 or not _lock.acquire(blocking=False):
        kernel.run(NOBODY, arguments, 0, count, grain)
    else:
        try:
            crew = _crew(threads - 1)
            for worker in crew.workers[:others]:
                worker.wake()
            kernel.run(crew.slots[:others], arguments, 0, count, grain)
        finally:
            _lock.release()


def _share_out(function: Share, bounds: list[int], workers: list[_Worker]) -> None:
    """The caller takes the first share, each worker another.

    However this ends, nobody is at work on it any more: an interrupt may come at any line, and the memory that the
    shares write to is the caller's.
    """
    answers: SimpleQueue[BaseException | None] = SimpleQueue()
    try:
        for worker, start, stop in zip(workers, bounds[1:-1], bounds[2:], strict=True):
            worker.start(function, start, stop, answers)
        function(0, bounds[1])
        for worker in workers:
            worker.near_the_end()
        for failure in [answers.get() for _ in workers]:
            if failure is not None:
                raise failure
    except BaseException:
        _settle(workers)
        raise


def _settle(workers: list[_Worker]) -> None:
    """Waits for all of them, and only then lets another interrupt through."""
    interrupt: KeyboardInterrupt | None = None
    waiting = list(workers)
    while waiting:
        try:
            waiting[-1].settle()
            waiting.pop()
        except KeyboardInterrupt as another:
            interrupt = another
    if interrupt is not None:
        raise interrupt
