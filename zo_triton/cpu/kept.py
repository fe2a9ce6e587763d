"""Where compiled kernels are kept: in a folder that is named by everything they are made of.

Numba keeps a kernel beside its source and looks at that one file, while a kernel is made of functions and
constants of many. Here one digest of all of them names a folder in the user's cache: another checkout, a file
that was only touched and an upgrade that leaves the kernels alone find them compiled, and no change is missed.
"""

from __future__ import annotations

import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import llvmlite
import numba
import numpy as np
from numba.core.caching import CompileResultCacheImpl, FunctionCache, _CacheLocator

from zo_triton import _files
from zo_triton._memory import check_room

_HERE = Path(__file__).parent
_SOURCES = (
    *sorted(_HERE.glob("*.py")),
    *(_HERE.parent / f"{name}.py" for name in ("directions", "distributions", "hadamard")),
)

FIRST_ROOM, ROOM = 112 << 20, 16 << 20
"""Bytes of address space without which no kernel is loaded: the first (measured: 92 MiB), and others (6 MiB).

LLVM ends the process where it is refused memory.
"""

MOST_FOLDERS = 8
"""Of other versions and checkouts; those that were used last stay."""


@cache
def digest() -> str:
    """Of the engine's sources, of the constants that they take from elsewhere, and of its compilers' versions."""
    found = sha256(f"{numba.__version__} {llvmlite.__version__} {np.__version__}".encode())
    for source in _SOURCES:
        content = source.read_bytes()
        found.update(f"{source.name} {len(content)} ".encode() + content)
    return found.hexdigest()[:16]


@cache
def folder() -> Path | None:
    """The folder, made if it was not there; None where there is no place for one, which stderr is told."""
    named = numba.config.CACHE_DIR
    above = Path(named) if named else _files.cache_folder()
    ours = above / f"kernels-{digest()}"
    if _is_ready(ours):
        _forget_others(ours)
        return ours
    other = _temporary_folder()
    place = "compiled anew in each process" if other is None else f"kept in {other}"
    sys.stderr.write(
        f"zo_triton: {above} can't be written to, so CPU kernels are {place}; "
        "ZO_TRITON_CACHE names a better place.\n"
    )
    return other


def _is_ready(path: Path) -> bool:
    """Whether kernels can be kept there; notes that they are in use."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path).close()
        os.utime(path)
    except OSError:
        return False
    return True


def _forget_others(ours: Path) -> None:
    """Each change of a source has a folder of its own, and nobody would remove them."""
    others: list[tuple[float, Path]] = []
    for path in ours.parent.glob("kernels-*"):
        with suppress(OSError):  # another process was quicker
            others += [(path.stat().st_mtime, path)] if path != ours else []
    for _, path in sorted(others, reverse=True)[MOST_FOLDERS:]:
        shutil.rmtree(path, ignore_errors=True)


def _temporary_folder() -> Path | None:
    """One that lasts until the machine is restarted.

    Kernels are code that will run, so a folder that anybody else can write to is not used.
    """
    try:
        path = Path(tempfile.gettempdir()) / f"zo_triton-{os.getuid()}-{digest()}"
        path.mkdir(mode=0o700, exist_ok=True)
        found = path.lstat()
        private = stat.S_ISDIR(found.st_mode) and not found.st_mode & 0o022 and found.st_uid == os.getuid()
        return path if private and os.access(path, os.W_OK) else None
    except (OSError, AttributeError):  # no temporary folder, or a system without users' numbers
        return None


@cache
def _digest_of(file: str) -> str:
    return sha256(Path(file).read_bytes()).hexdigest()


class _Place(_CacheLocator):
    """Tells Numba the folder of a function's results, and when they are stale: its own file may be a test's."""

    def __init__(self, function: Callable[..., Any], file: str) -> None:
        self._py_file, self._line = file, function.__code__.co_firstlineno

    @classmethod
    def from_function(cls, function: Callable[..., Any], file: str) -> _Place:
        """For a function that stands in a file."""
        return cls(function, file)

    def get_cache_path(self) -> str:
        """The folder."""
        return str(folder())

    def get_source_stamp(self) -> str:
        """Results with another one are stale."""
        return _digest_of(self._py_file)

    def get_disambiguator(self) -> str:
        """Tells functions of one name in one file apart."""
        return str(self._line)


class _Kernel(CompileResultCacheImpl):
    _locator_classes = [_Place]  # noqa: RUF012


class Results(FunctionCache):
    """What a kernel was compiled to, in Numba's own files."""

    _impl_class = _Kernel
    _room = FIRST_ROOM

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """A kernel for arguments of these types, or None if it was not compiled yet.

        Raises:
            MemoryError: There may be too little for it.
        """
        check_room(Results._room, f"the CPU kernel {self._py_func.__name__} can't be loaded")
        found = super().load_overload(sig, target_context)
        Results._room = ROOM
        return found
