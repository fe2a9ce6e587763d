"""Peak memory of a training step over plain inference, each method in a process of its own.

The kernel's high-water mark of resident memory is reset (Linux: 5 written to /proc/self/clear_refs) before
inference and again before the steps; the difference of the two marks is what a step adds. The method has
warmed up on a small network before, so that compilers and caches are in both marks. glibc is told to hand
large blocks back at once, else memory freed by one phase would hide what the next one needs.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from zo_triton.experiments.baselines import Backprop, MeZO, VmapEnsemble
from zo_triton.experiments.contender import Contender, count_parameters, make_mlp
from zo_triton.experiments.fused import FusedSGD, hardware_dtype
from zo_triton.experiments.step_time import Inference, StepCase, example
from zo_triton.experiments.timing import round_digits

CASES = (StepCase((784, 256, 256, 10), 128, 32), StepCase((1024, 3072, 2048, 256), 128, 32))
TINY_CASES = (StepCase((64, 32, 10), 32, 4),)
WARM_UP = StepCase((64, 64, 32, 10), 32, 8)
MIB = 2**20

METHODS: dict[str, tuple[str, str, Callable[[nn.Module, int], Contender]]] = {
    # One chunk holds all directions: the figure is then comparable with a known size.
    "zo": ("fused ZO-SGD, one chunk", "fused", lambda m, k: FusedSGD(m, 1e-3, 0, k, chunk=k)),
    "mezo": ("MeZO loop", "zeroth", lambda m, k: MeZO(m, 1e-3, 0, k)),
    "vmap": ("vmap ensemble", "zeroth", lambda m, k: VmapEnsemble(m, 1e-3, 0, k)),
    "sgd": ("backprop + SGD", "first", lambda m, k: Backprop(m, 1e-3, adam=False)),
}


def chunk_bytes(case: StepCase, dtype: torch.dtype) -> int:
    """Size of the largest activation difference when all K directions are one chunk."""
    return case.directions * case.batch * max(case.sizes[1:]) * dtype.itemsize


def run_memory(
    cases: Sequence[StepCase], say: Callable[[str], None], names: Sequence[str] = tuple(METHODS)
) -> dict[str, Any]:
    """The record's section ``memory``: MiB over inference, a process a method."""
    measured: dict[str, list[float]] = {}
    for name in names:
        say(f"peak memory: {METHODS[name][0]}")
        measured[name] = _in_subprocess(name, cases)
    rows = []
    for number, case in enumerate(cases):
        weights = count_parameters(make_mlp(case.sizes, 0))
        methods = [
            {
                "name": name,
                "label": METHODS[name][0],
                "family": METHODS[name][1],
                "excess_mib": round_digits(measured[name][number]),
            }
            for name in names
        ]
        chunk = round_digits(chunk_bytes(case, hardware_dtype()) / MIB)
        rows.append({"name": f"{case.name}, d = {weights:,}", "chunk_mib": chunk, "methods": methods})
    note = (
        "High-water mark of resident memory during training steps minus that during inference on the same "
        "network and batch; each method in a process of its own, after a warm-up on a small network. *One "
        "chunk* is the largest activation difference when all K directions are evaluated at once, which this "
        "measurement asks for; smaller chunks need less."
    )
    return {"note": note, "cases": rows}


def _in_subprocess(name: str, cases: Sequence[StepCase]) -> list[float]:
    described = json.dumps([[list(case.sizes), case.batch, case.directions] for case in cases])
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    done = subprocess.run(
        [sys.executable, "-m", "zo_triton.experiments.memory", name, described],
        capture_output=True,
        text=True,
        env=environment,
        timeout=120,
    )
    if done.returncode:
        raise RuntimeError(f"measuring the memory of {name!r} failed: {done.stderr.strip()[-400:]}")
    return json.loads(done.stdout)


def excess_mib(name: str, case: StepCase) -> float:
    """Measures one method in this process: peak of two steps over the peak of inference, in MiB."""
    build = METHODS[name][2]
    small, x, y = example(WARM_UP)
    build(small, WARM_UP.directions).step(x, y)
    Inference(small, 1).step(x, y)
    model, x, y = example(case)
    _reset_peak()
    Inference(model, 1).step(x, y)
    inference = _peak()
    contender = build(model, case.directions)
    _reset_peak()
    for _ in range(2):
        contender.step(x, y)
    return max(0.0, (_peak() - inference) / MIB)


def _reset_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def _peak() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("this system does not tell a process's peak memory (no VmHWM in /proc/self/status).")


def _main() -> None:
    name, described = sys.argv[1:]
    cases = [StepCase(tuple(sizes), batch, directions) for sizes, batch, directions in json.loads(described)]
    sys.stdout.write(json.dumps([excess_mib(name, case) for case in cases]))


if __name__ == "__main__":
    _main()
