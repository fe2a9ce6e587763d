"""All variants, their configs and the chips: chosen, compiled in a pool of processes, and put into a record.

The record is ``{"format", "schema", "environment", "rows"}``. A row names kernel, variant, target, config and
whether that is the launcher's own (``default``), its ``error`` or None, and unless it failed to compile: a
thread's registers, spilling instructions (AMD: spilled vector registers), bytes of stack and shared memory,
tensor memory columns, ``occupancy``, the launch's ``programs`` and the share of the chip that they keep busy
(``filled``), the inner loop's ``matrix`` instructions and instructions by class, its waits for all products
(``drains``, None where no warp group multiplies), its stores of single halves or bytes to shared memory
(``narrow_stores``), its writes to registers that a product under way still reads (``overwritten``), accesses to
the sums of one (``touched``), writes to shared memory that other warp groups' products may still read
(``unjoined``), and its ``roofline``.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from zo_triton.compilation.compiler import Job, compile_row, interpreted, options_of
from zo_triton.compilation.names import check_parts, check_targets
from zo_triton.compilation.table import FORMAT, SCHEMA
from zo_triton.compilation.targets import TARGETS
from zo_triton.compilation.variants import Variant
from zo_triton.kernels.choices import Config
from zo_triton.kernels.launch import launching_for


def choose(
    variants: Mapping[str, Variant],
    targets: Sequence[str] = (),
    kernels: Sequence[str] = (),
    defaults_only: bool = False,
) -> list[Job]:
    """What is to be compiled.

    Args:
        variants: By name.
        targets: Names of chips; none means all.
        kernels: Parts of the names of variants or of their kernels; none means all.
        defaults_only: Leave out all but the launchers' own configs.

    Raises:
        ValueError: No chip is called so, or no variant's name has the part; all known ones are listed.
    """
    check_targets(targets)
    check_parts(kernels, {name: variant.kernel for name, variant in variants.items()})
    chosen = {
        name: variant
        for name, variant in variants.items()
        if not kernels or any(part in name or part in variant.kernel for part in kernels)
    }
    return [
        Job(name, variant, config, target)
        for target in dict.fromkeys(targets or TARGETS)
        for name, variant in chosen.items()
        if TARGETS[target].backend in variant.backends
        for config in ([None] if defaults_only else _configs(variant, target))
    ]


def _configs(variant: Variant, target: str) -> list[Config | None]:
    """The launcher's own and those beside it that differ from it."""
    try:
        with launching_for(target):
            own = options_of(variant.launch().arguments)
    # Its row will tell.
    except Exception:
        own = {}
    others = [
        config for config in variant.configs if any(own.get(key) != size for key, size in config.items())
    ]
    return [None, *others]


def compile_all(
    jobs: Sequence[Job], environment: dict[str, Any], progress: Callable[[int, int], None]
) -> dict[str, Any]:
    """Compiles everything, a process a core.

    Args:
        jobs: From :func:`choose`.
        environment: Goes into the record.
        progress: Told how many are done, of how many.

    Returns:
        The record, rows in the order of the jobs.

    Raises:
        RuntimeError: This process runs Triton's interpreter, whose kernels can't be compiled.
    """
    if interpreted():
        raise RuntimeError("kernels can't be compiled under TRITON_INTERPRET=1; unset it for this command.")
    rows: dict[int, dict[str, Any]] = {}
    with _folder_for_triton():
        for index, row in _compiled(jobs):
            rows[index] = row
            progress(len(rows), len(jobs))
    return {
        "format": FORMAT,
        "schema": SCHEMA,
        "environment": environment,
        "rows": [rows[index] for index in range(len(jobs))],
    }


@contextmanager
def _folder_for_triton() -> Iterator[None]:
    """Triton compiles nothing that it can't keep: without a home of its user's it keeps it until the block ends."""
    named = {"TRITON_CACHE_DIR", "TRITON_HOME"} & os.environ.keys()
    if named or _is_writable(Path(os.path.expanduser("~"), ".triton", "cache")):
        yield
        return
    with tempfile.TemporaryDirectory(prefix="zo_triton-") as folder:
        os.environ["TRITON_CACHE_DIR"] = folder  # for the pool's processes
        try:
            yield
        finally:
            del os.environ["TRITON_CACHE_DIR"]


def _is_writable(folder: Path) -> bool:
    """Whether a file can be made there. A path that still starts with ~ is that of a user whom nobody knows."""
    if not folder.is_absolute():
        return False
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError:
        return False
    return True


def _compiled(jobs: Sequence[Job]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Rows as they come. A compiler that takes its process down takes the pool's others with it: those go again."""
    remaining = dict(enumerate(jobs))
    try:
        for index, row in _pooled(remaining, os.cpu_count() or 1):
            del remaining[index]
            yield index, row
    except BrokenProcessPool:
        for index, job in list(remaining.items()):
            yield from _alone(index, job)


def _pooled(jobs: Mapping[int, Job], processes: int) -> Iterator[tuple[int, dict[str, Any]]]:
    # Forked children would share the locks of torch's threads.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(processes, len(jobs)), mp_context=context) as pool:
        futures: dict[Future[dict[str, Any]], int] = {
            pool.submit(compile_row, job): index for index, job in jobs.items()
        }
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _alone(index: int, job: Job) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        yield from _pooled({index: job}, 1)
    except BrokenProcessPool:
        row = {
            "kernel": job.variant.kernel, "variant": job.name, "default": job.config is None,
            "target": job.target, "config": dict(job.config or {}), "error": "the compiler's process died",
            "seconds": None,
        }  # fmt: skip
        yield index, row


def failures(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Rows that don't compile, and defaults that don't fit: another config that doesn't fit is no defect."""
    return [row for row in record["rows"] if row["error"] and (row["default"] or "registers" not in row)]


def dumps(record: Mapping[str, Any]) -> str:
    """The record's text, a row a line."""
    head = {name: value for name, value in record.items() if name != "rows"}
    text = partial(json.dumps, ensure_ascii=False, allow_nan=False)
    rows = ",\n".join(f"  {text(row)}" for row in record["rows"])
    lines = [f" {text(name)}: {text(value)}" for name, value in head.items()]
    return "{\n" + ",\n".join(chain(lines, [f' "rows": [\n{rows}\n ]'])) + "\n}\n"
