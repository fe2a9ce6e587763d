"""How this engine's kernels are compiled: without the GIL, cached on disk, and never in silence."""

from __future__ import annotations

import os
import stat
import sys
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache, update_wrapper
from hashlib import sha256
from pathlib import Path
from typing import Any

import numba

_FOLDER = Path(__file__).parent
_NEWEST = max(source.stat().st_mtime for source in _FOLDER.glob("*.py"))


def _drop_stale_results() -> None:
    """Numba looks only at the file a kernel stands in, not at those it takes its device functions from."""
    for index in (_FOLDER / "__pycache__").glob("*.nbi"):
        with suppress(OSError):  # another process was quicker, or the package is read-only
            if index.stat().st_mtime < _NEWEST:
                index.unlink()


_drop_stale_results()


@lru_cache(maxsize=1)
def _temporary_folder() -> str | None:
    """Where results are kept if neither the package nor the home folder can be written to; None for nowhere.

    Its name tells these sources from others. Results are code that will run, so a folder that anybody else can
    write to is not used.
    """
    try:
        sources = sha256(f"{_FOLDER} {_NEWEST}".encode()).hexdigest()[:16]
        folder = Path(tempfile.gettempdir()) / f"zo_triton-{os.getuid()}-{sources}"
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
        private = stat.S_ISDIR(found.st_mode) and not found.st_mode & 0o022
        usable = private and found.st_uid == os.getuid() and os.access(folder, os.W_OK)
    except (OSError, AttributeError):  # no temporary folder, or a system without users' numbers
        usable = False
    place = f"kept in {folder}" if usable else "compiled anew in each process"
    sys.stderr.write(
        "zo_triton: neither the package nor the home folder can be written to, so CPU kernels are "
        f"{place}; NUMBA_CACHE_DIR names a better place.\n"
    )
    return str(folder) if usable else None


def _compiled(**options: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """``numba.njit`` with a cache on disk wherever there is a place for one."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        try:
            return numba.njit(cache=True, **options)(function)
        except RuntimeError as error:
            if "cannot cache" not in str(error):
                raise
        folder, before = _temporary_folder(), numba.config.CACHE_DIR
        numba.config.CACHE_DIR = folder or ""
        try:
            return numba.njit(cache=folder is not None, **options)(function)
        finally:
            numba.config.CACHE_DIR = before

    return decorate


device = _compiled(nogil=True, inline="always", error_model="numpy")
"""Decorates a function that kernels call; it is compiled into them."""

routine = _compiled(nogil=True, error_model="numpy")
"""The same for one too long to be compiled into each of its callers, which works long enough to be worth a call."""

_PATIENCE_SECONDS = 0.7
_announced = threading.Event()


class Kernel:
    """A compiled function that says so on stderr when its first call has to wait for the compiler.

    Numba keeps the result beside this file, in the home folder or in NUMBA_CACHE_DIR, so the wait comes once a
    machine. Code that measures time makes one untimed call first.
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
