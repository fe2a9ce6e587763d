"""Both cores busy without oversubscription.

torch's OpenMP threads spin for a while after each parallel region, and a second pool beside them takes turns
with the spinning ones. So the engine's work runs in the calling thread and a few of its own, each with torch
held to a single thread: generation, GEMM and epilogue of one share of the directions follow one another in one
cache, and there is nothing to wait for but the end.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from queue import SimpleQueue

import numpy as np
import torch

from zo_triton.cpu.compiling import device, kernel
from zo_triton.cpu.vectors import atomic_load, atomic_store, relax

Share = Callable[[int, int], None]


_GLANCES = 12_000
"""About 300 µs, the longest gap between the operations of a small model's training loop."""


@device
def _glance(count, seen):
    for _ in range(_GLANCES):
        if atomic_load(count.ctypes.data) != seen:
            break
        relax()


@kernel
def _watch(count, seen):
    """Waits a moment for a count to leave ``seen``, before the caller goes to sleep.

    Waking a sleeping thread takes about 50 µs on a virtual machine, as long as a small layer's whole share of
    work; the next share usually comes sooner than that. The queues alone carry the work: a watch that ends too
    early or too late only costs time.
    """
    _glance(count, seen)


@kernel
def _tell_and_watch(done, count, seen):
    """Tells that ``seen`` shares are done, and watches for the next.

    In compiled code, which holds no interpreter lock: who is told needs that lock at once, and would go to sleep.
    """
    atomic_store(done.ctypes.data, seen)
    _glance(count, seen)


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


class _Worker:
    """A thread that runs one share at a time."""

    def __init__(self) -> None:
        self._caller = -1
        self._inbox: SimpleQueue[tuple[Share, int, int]] = SimpleQueue()
        self._outbox: SimpleQueue[BaseException | None] = SimpleQueue()
        self._given, self._done = np.zeros(1, np.int64), np.zeros(1, np.int64)
        threading.Thread(target=self._run, name="zo_triton", daemon=True).start()

    def _run(self) -> None:
        torch.set_num_threads(1)
        shares = 0
        while True:
            _tell_and_watch(self._done, self._given, shares)
            function, start, stop = self._inbox.get()
            _leave(self._caller)
            result = None
            try:
                function(start, stop)
            except BaseException as error:  # handed to the caller, whatever it is
                result = error
            shares += 1
            self._outbox.put(result)
            del function, result

    def start(self, function: Share, start: int, stop: int) -> None:
        self._caller = -1 if _core is None else _core()
        self._inbox.put((function, start, stop))
        self._given[0] += 1

    def finish(self) -> BaseException | None:
        _watch(self._done, int(self._given[0]) - 1)
        return self._outbox.get()


@cache
def _workers(count: int) -> list[_Worker]:
    return [_Worker() for _ in range(count)]


# A forked child has none of the threads.
os.register_at_fork(after_in_child=_workers.cache_clear)
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
    _held = threads
    torch.set_num_threads(1)
    try:
        yield
    finally:
        _held = 0
        torch.set_num_threads(threads)


def parallel(function: Share, count: int) -> None:
    """Calls ``function(start, stop)`` on contiguous shares of ``range(count)``, one for each torch thread.

    A call from inside a share, or while another thread's call is under way, runs in the caller alone.
    """
    shares = min(_held or torch.get_num_threads(), count)
    if shares <= 1 or not _lock.acquire(blocking=False):
        function(0, count)
        return
    try:
        with one_pool():
            _share_out(function, [count * share // shares for share in range(shares + 1)])
    finally:
        _lock.release()


def _share_out(function: Share, bounds: list[int]) -> None:
    workers = _workers(len(bounds) - 2)
    for worker, start, stop in zip(workers, bounds[1:-1], bounds[2:], strict=True):
        worker.start(function, start, stop)
    errors: list[BaseException | None] = []
    try:
        function(0, bounds[1])
    except BaseException as error:
        errors.append(error)
    finally:
        errors += [worker.finish() for worker in workers]
    for failure in errors:
        if failure is not None:
            raise failure
