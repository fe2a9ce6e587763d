"""How long it takes from the start of a process to a program's first step, with a cold cache and a warm one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

from numba.core import event

CACHES = ("cold", "warm")


class Start(NamedTuple):
    """One start.

    Attributes:
        program: Its name in ``zo_triton.warmup``.
        cache: Cold or warm.
        seconds: From the start of the process to the end of the first step.
        cpu_seconds: Of all threads, the interpreter's own start included.
        kernels: How many had to be compiled.
        slowest: Names and CPU seconds of those that took longest, three at most.
    """

    program: str
    cache: str
    seconds: float
    cpu_seconds: float
    kernels: int
    slowest: list[tuple[str, float]]


def measure(programs: list[str]) -> Iterator[Start]:
    """Starts each program twice: with an empty cache, and with what the first start has left there."""
    for program in programs:
        with tempfile.TemporaryDirectory() as folder:
            for cache in CACHES:
                yield start(program, cache, folder)


def start(program: str, cache: str, folder: str) -> Start:
    """Starts a program with what ``folder`` holds, in whatever state the caller calls ``cache``."""
    environment = {key: value for key, value in os.environ.items() if key != "NUMBA_CACHE_DIR"}
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", __name__, program],
        capture_output=True, text=True, env={**environment, "ZO_TRITON_CACHE": folder},
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"the first step of {program} failed: {done.stderr.strip()[-400:]}")
    found = json.loads(done.stdout)
    seconds = found["ended"] - began  # of the same clock, which starts with the machine
    return Start(program, cache, seconds, found["cpu_seconds"], found["kernels"], found["slowest"])


class Compilations(event.Listener):
    """Notes which kernels are compiled and how long each takes; what they call belongs to them."""

    def __init__(self) -> None:
        self.found: list[tuple[str, float]] = []
        self._began: list[float] = []

    def on_start(self, event: event.Event) -> None:
        """A function's turn has come, perhaps in the middle of another's."""
        self._began.append(time.process_time())

    def on_end(self, event: event.Event) -> None:
        """It is compiled."""
        seconds = time.process_time() - self._began.pop()
        if not self._began:
            name = event.data["dispatcher"].py_func.__name__
            self.found.append((name.strip("_").removesuffix("_everywhere"), seconds))


def _take_step(program: str) -> dict[str, Any]:
    """The step, in this process."""
    compilations = Compilations()
    event.register("numba:compile", compilations)
    from zo_triton._first_steps import STEPS

    STEPS[program]()
    slowest = sorted(compilations.found, key=lambda each: -each[1])[:3]
    return {
        "ended": time.monotonic(),
        "cpu_seconds": time.process_time(),
        "kernels": len(compilations.found),
        "slowest": slowest,
    }


if __name__ == "__main__":
    json.dump(_take_step(sys.argv[1]), sys.stdout)
