"""How much memory a call takes at its peak, in a process that was started for nothing else.

Two figures. *Allocated* is exact: glibc is told to map every large block by itself and keeps the high-water mark
of what is mapped, whichever library or thread asked for it. *Resident* is the kernel's high-water mark of
resident memory, reset by a 5 written to /proc/self/clear_refs; it holds pages of code and of stacks as well.
Memory freed is handed back at once, else what one phase has freed would hide what the next one needs.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

MIB = 2**20

LARGE = 1 << 14
"""Blocks of so many bytes are mapped each by itself, and counted."""

ENVIRONMENT = {"MALLOC_MMAP_THRESHOLD_": str(LARGE), "MALLOC_TOP_PAD_": "0", "MALLOC_ARENA_MAX": "1"}
"""What a process must have been started with, so that :class:`Allocated` counts all of its large blocks."""


class Excess(NamedTuple):
    """Bytes that a call takes at its peak beyond what was taken before it."""

    allocated: int
    resident: int


def in_own_process(module: str, arguments: list[str], what: str, timeout: float) -> Any:
    """Runs a module with :data:`ENVIRONMENT` set and reads the JSON that it prints.

    Args:
        module: Its dotted name.
        arguments: Of its command line.
        what: Is measured, for the error.
        timeout: In seconds.

    Raises:
        RuntimeError: It failed; the message has the end of what it said.
    """
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, **ENVIRONMENT},
        timeout=timeout,
    )
    if done.returncode:
        raise RuntimeError(f"measuring the memory of {what} failed: {done.stderr.strip()[-400:]}")
    return json.loads(done.stdout)


def peak_of(action: Callable[[], object]) -> Excess:
    """Bytes that a call takes at its peak beyond those at its beginning.

    Raises:
        RuntimeError: The system tells no peaks, or the process was not started with :data:`ENVIRONMENT`.
    """
    with Allocated() as allocated:
        _reset_resident()
        action()
        return Excess(allocated.peak(), _status("VmHWM") - allocated.resident)


class _Account(ctypes.Structure):
    """glibc's ``struct mallinfo2``, of which one field is read."""

    _fields_ = [
        ("arena", ctypes.c_size_t),
        ("pieces", ctypes.c_size_t * 3),
        ("mapped", ctypes.c_size_t),
        ("others", ctypes.c_size_t * 5),
    ]


class Allocated:
    """Counts, inside a ``with``, the most bytes that large blocks took at one time.

    glibc never lowers its mark, so untouched ballast lifts what is mapped up to it first; and blocks that
    would fit between the small ones, where nothing counts them, find these gaps taken.

    Attributes:
        resident: Resident bytes at the beginning.

    Raises:
        RuntimeError: The C library is no glibc of version 2.33 or later, or not set up by :data:`ENVIRONMENT`.
    """

    def __enter__(self) -> Allocated:
        self._library = ctypes.CDLL(None)
        if any(os.environ.get(name) != value for name, value in ENVIRONMENT.items()):
            raise RuntimeError(f"allocations are counted in a process started with {ENVIRONMENT} only.")
        if not hasattr(self._library, "mallinfo2"):
            raise RuntimeError(
                "allocations are counted by glibc 2.33 or later; this system has another library."
            )
        self._library.mallinfo2.restype = _Account
        self._library.malloc.restype = ctypes.c_void_p
        self._library.malloc.argtypes = [ctypes.c_size_t]
        self._library.free.argtypes = [ctypes.c_void_p]
        self._ballast: list[int] = []
        for bits in range(26, LARGE.bit_length() - 2, -1):
            while self._fits_a_gap(1 << bits):
                pass
        missing = self._highest() - self._mapped()
        if missing > 0:
            self._ballast.append(self._library.malloc(max(LARGE, missing)))
        self._start, self.resident = self._mapped(), _status("VmRSS")
        return self

    def __exit__(self, *error: object) -> None:
        for block in self._ballast:
            self._library.free(block)

    def peak(self) -> int:
        """Bytes over those at the beginning."""
        return self._highest() - self._start

    def _fits_a_gap(self, size: int) -> bool:
        before, block = self._mapped(), self._library.malloc(size)
        if self._mapped() != before:
            self._library.free(block)
            return False
        self._ballast.append(block)
        return True

    def _mapped(self) -> int:
        return self._library.mallinfo2().mapped

    def _highest(self) -> int:
        """The mark that ``malloc_stats`` prints; nothing else tells it."""
        with tempfile.TemporaryFile() as file:
            sys.stderr.flush()
            stderr = os.dup(2)
            os.dup2(file.fileno(), 2)
            try:
                self._library.malloc_stats()
            finally:
                os.dup2(stderr, 2)
                os.close(stderr)
            file.seek(0)
            found = re.search(rb"max mmap bytes *= *(\d+)", file.read())
        assert found is not None
        return int(found[1])


def _reset_resident() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"this system does not tell a process's memory (no {field} in /proc/self/status).")
