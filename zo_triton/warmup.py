"""The first steps of common programs: taken ahead, they leave the CPU engine's kernels compiled for later runs."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from time import monotonic

PROCESSES = 2
"""At a time. More would compile what programs have in common again and again."""

PROGRAMS = {
    "mlp": "an MLP with ZOSGD",
    "fused": "an MLP with FusedTrainer",
    "activations": "an MLP with FusedTrainer on activations",
    "cnn": "a CNN with ZOSGD",
    "transformer": "a transformer with ZOSGD",
}
"""By name, for a reader. What they do is in ``_first_steps.py``, which takes torch, so that names need none."""


def check_names(names: Sequence[str]) -> list[str]:
    """The programs to warm up for, all of them if none is named.

    Raises:
        ValueError: There is no such program.
    """
    for name in names:
        if name not in PROGRAMS:
            raise ValueError(
                f"there is no program {name!r} to warm up for; choose among {', '.join(PROGRAMS)}."
            )
    return list(dict.fromkeys(names)) or list(PROGRAMS)


def warm_up(names: Sequence[str]) -> Iterator[tuple[str, float]]:
    """Takes the first step of each program in a process of its own.

    Yields:
        A program's name and the seconds that it took, as each is done.

    Raises:
        RuntimeError: A step failed; the message has the end of what it said.
    """
    with ThreadPoolExecutor(min(PROCESSES, os.cpu_count() or 1)) as pool:
        for done in as_completed([pool.submit(_in_own_process, name) for name in names]):
            yield done.result()


def _in_own_process(name: str) -> tuple[str, float]:
    start = monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "zo_triton._first_steps", name], capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(f"the first step of {PROGRAMS[name]} failed: {done.stderr.strip()[-400:]}")
    return name, monotonic() - start
