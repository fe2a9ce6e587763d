"""Both cores busy without oversubscription.

torch's OpenMP threads spin for a while after each parallel region, and a second pool beside them takes turns
with the spinning ones. So the engine's work runs in a few threads of its own, each with torch held to a single
thread: generation, GEMM and epilogue of one share of the directions follow one another in one cache, and there
is nothing to wait for but the end.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import torch


@lru_cache(maxsize=None)
def _pool(workers: int) -> ThreadPoolExecutor:
    pool = ThreadPoolExecutor(
        workers, thread_name_prefix="zo_triton", initializer=torch.set_num_threads, initargs=(1,)
    )
    for future in [pool.submit(_meet, workers) for _ in range(workers)]:
        future.result()
    # The number is partly global in torch: give the calling thread back what it had.
    torch.set_num_threads(workers)
    return pool


def _meet(workers: int) -> int:
    return torch.get_num_threads()


def parallel(function: Callable[[int, int], None], count: int) -> None:
    """Calls ``function(start, stop)`` on contiguous shares of ``range(count)``, one a torch thread."""
    workers = min(torch.get_num_threads(), count)
    if workers <= 1:
        function(0, count)
        return
    bounds = [count * worker // workers for worker in range(workers + 1)]
    pool = _pool(torch.get_num_threads())
    futures = [pool.submit(function, *bounds[worker : worker + 2]) for worker in range(workers)]
    for future in futures:
        future.result()
