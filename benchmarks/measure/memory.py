"""Peak memory of a training step over plain inference, each method in a process of its own.

Two figures. *Allocated* is exact: glibc is told to map every large block by itself and keeps the high-water mark
of what is mapped, whichever library or thread asked for it. *Resident* is the kernel's high-water mark of
resident memory, reset by a 5 written to /proc/self/clear_refs; it holds pages of code and of stacks as well.
Both are the mark of one step minus that of inference. A network of another size has warmed the libraries up
before, and one step and one inference have gone uncounted, since compilers and caches work in these. Memory
freed is handed back at once, else what one phase has freed would hide what the next one needs.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from benchmarks.contenders.contender import Contender, Method, Setting
from benchmarks.contenders.fused import FusedSGD, hardware_dtype
from benchmarks.contenders.inference import Inference
from benchmarks.contenders.registry import METHODS as CONTENDERS
from benchmarks.measure.step_time import StepCase, example
from benchmarks.race.networks import count_parameters, make_mlp
from benchmarks.timing import round_digits

WARM_UP = StepCase((64, 64, 32, 10), 32, 8)
MIB = 2**20

LARGE = 1 << 14
"""Blocks of so many bytes are mapped each by itself, and counted."""

ENVIRONMENT = {"MALLOC_MMAP_THRESHOLD_": str(LARGE), "MALLOC_TOP_PAD_": "0", "MALLOC_ARENA_MAX": "1"}
"""What a process must have been started with, so that :class:`Allocated` counts all of its large blocks."""

STEPPERS = ("zo", "zo-rank-1", "mezo", "vmap-adam")
"""Whose memory is measured on large networks, where backprop's lies in what it keeps between steps."""


class MemoryCase(NamedTuple):
    """A network, batch and K, and the contenders that are measured on it."""

    step: StepCase
    names: tuple[str, ...]


def race_case(names: Sequence[str]) -> MemoryCase:
    """The main race's contenders on its network, for the report's first screen."""
    return MemoryCase(StepCase((64, 32, 10), 64, 128), tuple(names))


CASES = (
    MemoryCase(StepCase((784, 256, 256, 10), 128, 32), STEPPERS),
    MemoryCase(StepCase((1024, 3072, 2048, 256), 128, 32), STEPPERS),
)
TINY_CASES = (MemoryCase(StepCase((64, 32, 10), 32, 4), ("zo", "mezo")),)


def find_build(name: str) -> tuple[Method, Callable[[nn.Module, int], Contender]]:
    """A contender, and how it is built from a model and K.

    The fused method evaluates all directions in one chunk: its figure is then comparable with a known size.
    """
    method = CONTENDERS[name]
    if name == "zo":
        method = replace(method, label="fused ZO-SGD, one chunk")
        return method, lambda model, k: FusedSGD(model, Setting(1e-3, 0, k), chunk=k)
    return method, lambda model, k: method.build(model, Setting(1e-3, 0, k))


def chunk_bytes(case: StepCase, dtype: torch.dtype) -> int:
    """Size of the largest activation difference when all K directions are one chunk."""
    return case.directions * case.batch * max(case.sizes[1:]) * dtype.itemsize


def run_memory(cases: Sequence[MemoryCase], say: Callable[[str], None]) -> dict[str, Any]:
    """The record's section ``memory``: MiB over inference, a process a method."""
    methods = {name: find_build(name)[0] for case in cases for name in case.names}
    measured: dict[str, Iterator[Excess]] = {}
    for name, method in methods.items():
        say(f"peak memory: {method.label}")
        measured[name] = iter(_in_subprocess(name, [case.step for case in cases if name in case.names]))
    rows = [_row(case, [(methods[name], next(measured[name])) for name in case.names]) for case in cases]
    note = (
        "Peak of the memory allocated during a training step minus that during inference on the same network "
        "and batch, counted exactly by the allocator in blocks of 16 KiB and more; each method in a process of "
        "its own; what an optimizer keeps between steps is not counted. *One chunk* is the largest activation "
        "difference when all K directions are evaluated at once, which the fused full-rank method is asked to "
        "do; smaller chunks need less. The record also holds resident_mib, the same from the kernel's "
        "high-water mark of resident memory."
    )
    return {"note": note, "cases": rows}


def _row(case: MemoryCase, measured: Sequence[tuple[Method, Excess]]) -> dict[str, Any]:
    weights = count_parameters(make_mlp(case.step.sizes, 0))
    return {
        "name": f"{case.step.name}, d = {weights:,}",
        "chunk_mib": round_digits(chunk_bytes(case.step, hardware_dtype()) / MIB),
        "methods": [
            {
                "name": method.name,
                "label": method.label,
                "family": method.family,
                "excess_mib": round_digits(excess.allocated / MIB),
                "resident_mib": round_digits(excess.resident / MIB),
            }
            for method, excess in measured
        ],
    }


class Excess(NamedTuple):
    """Bytes that a step takes at its peak beyond what inference takes at its own."""

    allocated: int
    resident: int


def _in_subprocess(name: str, cases: Sequence[StepCase]) -> list[Excess]:
    described = json.dumps([[list(case.sizes), case.batch, case.directions] for case in cases])
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.measure.memory", name, described],
        capture_output=True,
        text=True,
        env={**os.environ, **ENVIRONMENT},
        timeout=120,
    )
    if done.returncode:
        raise RuntimeError(f"measuring the memory of {name!r} failed: {done.stderr.strip()[-400:]}")
    return [Excess(*each) for each in json.loads(done.stdout)]


def excess(build: Callable[[nn.Module, int], Contender], case: StepCase) -> Excess:
    """Measures one method in this process, which must have been started with :data:`ENVIRONMENT`.

    Args:
        build: From model and K to the method.
        case: Network, batch and K.

    Raises:
        RuntimeError: The system tells no peaks, or the environment is not set.
    """
    small, x, y = example(WARM_UP)
    build(small, WARM_UP.directions).step(x, y)
    Inference(small, Setting(0.0)).step(x, y)
    model, x, y = example(case)
    inference, contender = Inference(model, Setting(0.0)), build(model, case.directions)
    peaks = []
    for each in (inference, contender):
        each.step(x, y)
        with Allocated() as allocated:
            _reset_resident()
            each.step(x, y)
            peaks.append((allocated.peak(), _status("VmHWM") - allocated.resident))
    (less, less_resident), (more, more_resident) = peaks
    return Excess(max(0, more - less), max(0, more_resident - less_resident))


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


def _main() -> None:
    name, described = sys.argv[1:]
    cases = [StepCase(tuple(sizes), batch, directions) for sizes, batch, directions in json.loads(described)]
    sys.stdout.write(json.dumps([excess(find_build(name)[1], case) for case in cases]))


if __name__ == "__main__":
    _main()
