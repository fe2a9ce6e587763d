"""How this engine's kernels are compiled: without the GIL, cached on disk, and never in silence."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import update_wrapper
from pathlib import Path
from typing import Any

import numba


def _drop_stale_results() -> None:
    """Numba looks only at the file a kernel stands in, not at those it takes its device functions from."""
    folder = Path(__file__).parent
    newest = max(source.stat().st_mtime for source in folder.glob("*.py"))
    for index in (folder / "__pycache__").glob("*.nbi"):
        with suppress(OSError):  # another process was quicker, or the package is read-only
            if index.stat().st_mtime < newest:
                index.unlink()


_drop_stale_results()

device: Callable[..., Any] = numba.njit(nogil=True, cache=True, inline="always", error_model="numpy")
"""Decorates a function that kernels call; it is compiled into them."""

routine: Callable[..., Any] = numba.njit(nogil=True, cache=True, error_model="numpy")
"""The same for one too long to be compiled into each of its callers, which works long enough to be worth a call."""

_PATIENCE_SECONDS = 0.7
_announced = threading.Event()


class Kernel:
    """A compiled function that says so on stderr when its first call has to wait for the compiler.

    Numba keeps the result beside this file (or in NUMBA_CACHE_DIR), so the wait comes once a machine. Code that
    measures time makes one untimed call first.
    """

    def __init__(self, compiled: Callable[..., Any]) -> None:
        self._compiled = compiled
        self._ready = False
        update_wrapper(self, compiled)

    def __call__(self, *arguments: Any) -> Any:
        """What the function returns."""
        if self._ready:
            return self._compiled(*arguments)
        timer = threading.Timer(_PATIENCE_SECONDS, _announce)
        timer.daemon = True
        timer.start()
        try:
            result = self._compiled(*arguments)
        finally:
            timer.cancel()
        self._ready = True
        return result


def _announce() -> None:
    if not _announced.is_set():
        _announced.set()
        sys.stderr.write("zo_triton: compiling the CPU kernels once; later runs load them from the cache …\n")


def kernel(function: Callable[..., Any]) -> Kernel:
    """Decorates a function that Python calls. Arguments are arrays (bfloat16 as uint16) and numbers."""
    return Kernel(routine(function))
