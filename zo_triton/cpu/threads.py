"""Both cores busy without oversubscription.

torch's OpenMP threads spin for a while after each parallel region, and a second pool beside them takes turns
with the spinning ones. So the engine's work runs in the calling thread and a few of its own, each with torch
held to a single thread: generation, GEMM and epilogue of one share of the directions follow one another in one
cache, and there is nothing to wait for but the end. Only large operations of a closure's base have torch's threads,
which are put to rest before the engine's go to work.
"""

from __future__ import annotations

import ctypes
import os
from _thread import allocate_lock, get_ident
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch

from zo_triton._threads import torch_threads
from zo_triton.cpu.crew import Crew, Function, share_out
from zo_triton.cpu.sharing import NOBODY, SharedKernel

_SOFTLY = 1
"""What OpenMP calls giving up threads, and nothing else that a program may have set."""


def _find_pause() -> Callable[[int], int] | None:
    """What ends the OpenMP threads that wait for the calling one; None if torch's OpenMP can't be asked to."""
    try:
        return ctypes.CDLL(None).omp_pause_resource_all
    except (AttributeError, OSError, TypeError):
        return None


_pause = _find_pause()
_crew = cache(Crew)
_lock = allocate_lock()
_held, _holder = 0, 0
_spinning = False


@contextmanager
def one_pool() -> Iterator[None]:
    """Keeps torch's own threads out while the engine's are at work; :func:`parallel` still uses all of them.

    Between two of the engine's operations the closure's base runs on one thread then, but for :func:`wider`:
    torch's threads, spinning after each small one, would take half of a core from the engine's.
    """
    global _held, _holder
    threads = torch.get_num_threads()
    if threads == 1:
        yield
        return
    if _held:
        with torch_threads(1):
            yield
        return
    try:
        _held, _holder = threads, get_ident()
        with torch_threads(1):
            yield
    finally:
        _held = 0


def wider() -> Callable[..., Any] | None:
    """What runs a function of torch's on the threads that :func:`one_pool` keeps out; None where it keeps none.

    Worth it for one that takes a millisecond: afterwards the threads are given up, and others started for the next
    one, which takes 0.1 ms.
    """
    return _on_all_threads if _pause is not None and _held > 1 and _holder == get_ident() else None


def _on_all_threads(function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    global _spinning
    if wider() is None:  # in a child forked since, or once another thread's end has taken the number along
        return function(*args, **kwargs)
    _spinning = True
    with torch_threads(_held):
        return function(*args, **kwargs)


def _rest() -> None:
    """Ends torch's threads if they may be spinning still."""
    global _spinning
    if _spinning and _holder == get_ident():
        _spinning = False
        assert _pause is not None
        _pause(_SOFTLY)


def _forget() -> None:
    """In a forked child: it has none of the threads, and of what its parent's were at only what it was itself.

    Torch's own OpenMP would wait there for its parent's threads: what was one thread's before the fork stays so.
    """
    global _lock, _held, _pause, _spinning
    _crew.cache_clear()
    _lock = allocate_lock()
    _pause, _spinning = None, False
    if _holder != get_ident():
        _held = 0


os.register_at_fork(after_in_child=_forget)


def thread_count() -> int:
    """Threads that work at most, the caller's included."""
    return _held or torch.get_num_threads()


def parallel(function: Function, count: int) -> None:
    """Calls ``function(start, stop)`` on contiguous shares of ``range(count)``, one for each torch thread.

    All are in inference mode if the caller is: what was made there may be written to nowhere else.

    A call from inside a share, or while another thread's call is under way, runs in the caller alone.
    """
    threads, lock = thread_count(), _lock
    shares = min(threads, count)
    if shares <= 1 or not lock.acquire(blocking=False):
        function(0, count)
        return
    if torch.is_inference_mode_enabled():
        function = torch.inference_mode()(function)
    try:
        _rest()
        with one_pool():
            bounds = [count * share // shares for share in range(shares + 1)]
            share_out(function, bounds, _crew(threads - 1).present(shares - 1))
    finally:
        lock.release()


def together(
    kernel: SharedKernel, arguments: tuple[Any, ...], count: int, grain: int = 1, alone: bool = False
) -> None:
    """Runs a kernel on ``range(count)``, ``grain`` items at a time, on as many threads as torch has.

    The caller alone does it if it is told to, in a share, or while another thread's call is under way.

    Raises:
        MemoryError: A thread had too little.
    """
    threads, lock = thread_count(), _lock
    others = min(threads, -(-count // grain)) - 1
    if alone or others < 1 or not lock.acquire(blocking=False):
        kernel.run(NOBODY, arguments, 0, count, grain)
        return
    try:
        _rest()
        crew = _crew(threads - 1)
        for worker in crew.present(others):
            worker.wake()
        kernel.run(crew.slots[:others], arguments, 0, count, grain)
    finally:
        lock.release()
