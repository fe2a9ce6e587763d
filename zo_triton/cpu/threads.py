"""Both cores busy without oversubscription.

torch's OpenMP threads spin for a while after each parallel region, and a second pool beside them takes turns
with the spinning ones. So the engine's work runs in the calling thread and a few of its own, each with torch
held to a single thread: generation, GEMM and epilogue of one share of the directions follow one another in one
cache, and there is nothing to wait for but the end.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from functools import lru_cache
from queue import SimpleQueue

import torch

Share = Callable[[int, int], None]


class _Worker:
    """A thread that runs one share at a time. A plain queue: it costs a third of an executor's hand-over."""

    def __init__(self) -> None:
        self._inbox: SimpleQueue[tuple[Share, int, int]] = SimpleQueue()
        self._outbox: SimpleQueue[BaseException | None] = SimpleQueue()
        threading.Thread(target=self._run, name="zo_triton", daemon=True).start()

    def _run(self) -> None:
        torch.set_num_threads(1)
        while True:
            function, start, stop = self._inbox.get()
            try:
                function(start, stop)
            except BaseException as error:  # handed to the caller, whatever it is
                self._outbox.put(error)
            else:
                self._outbox.put(None)
            del function

    def start(self, function: Share, start: int, stop: int) -> None:
        self._inbox.put((function, start, stop))

    def finish(self) -> BaseException | None:
        return self._outbox.get()


@lru_cache(maxsize=None)
def _workers(count: int) -> list[_Worker]:
    return [_Worker() for _ in range(count)]


# A forked child has none of the threads.
os.register_at_fork(after_in_child=_workers.cache_clear)
_lock = threading.Lock()


def parallel(function: Share, count: int) -> None:
    """Calls ``function(start, stop)`` on contiguous shares of ``range(count)``, one for each torch thread.

    A call from inside a share, or while another thread's call is under way, runs in the caller alone.
    """
    threads = torch.get_num_threads()
    shares = min(threads, count)
    if shares <= 1 or not _lock.acquire(blocking=False):
        function(0, count)
        return
    try:
        bounds = [count * share // shares for share in range(shares + 1)]
        workers = _workers(shares - 1)
        for share, worker in enumerate(workers, 1):
            worker.start(function, bounds[share], bounds[share + 1])
        errors: list[BaseException | None] = []
        torch.set_num_threads(1)
        try:
            function(0, bounds[1])
        except BaseException as error:
            errors.append(error)
        finally:
            torch.set_num_threads(threads)
            errors += [worker.finish() for worker in workers]
        for failure in errors:
            if failure is not None:
                raise failure
    finally:
        _lock.release()
