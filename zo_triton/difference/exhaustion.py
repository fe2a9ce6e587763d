"""Out of memory: known by its errors, answered by evaluating fewer directions at once."""

from __future__ import annotations

import errno
import gc
from dataclasses import replace
from typing import Any

import torch

from zo_triton._memory import release_freed_memory
from zo_triton._warn import warn
from zo_triton.difference.plan import Plan

PHRASES = (
    "can't allocate memory",
    "not enough memory",
    "out of memory",
    "cannot allocate memory",
    "std::bad_alloc",
    "bad allocation",
    "could not create a primitive",
    "could not create a memory",
    "could not execute a primitive",
    "[enforce fail a",
)
"""What torch's plain RuntimeErrors say, in lower case, where an allocation has failed.

``torch.OutOfMemoryError`` comes from a GPU's allocator alone: of the host's, cuBLAS's, cuDNN's and oneDNN's
failures the text is all that there is to know them by. oneDNN's says no more than what it was about to do,
and torch's own is cut off there where memory was too short for the whole of it.
"""

REMEDY = (
    "Use a smaller batch, compute_dtype=torch.bfloat16, or zo.BlackBox, which needs no more than inference."
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory was not to be had, on the host or on a GPU."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and any(phrase in str(error).lower() for phrase in PHRASES)


def halved(plan: Plan, attempted: int, error: BaseException) -> Plan:
    """The plan for another attempt, with half as many directions at once.

    Args:
        plan: That of the failed attempt.
        attempted: Directions that it evaluated at once.
        error: What it failed with.

    Raises:
        MemoryError: It was one direction already.
    """
    if attempted == 1:
        raise MemoryError(
            f"not even one direction at a time fits in memory ({error}); nothing has changed. {REMEDY}"
        ) from error
    return replace(plan, chunk=attempted // 2)


class explained:  # noqa: N801 (used like a function)
    """Any lack of memory in the block is a MemoryError that says what helps, whatever raised it as what."""

    def __enter__(self) -> None:
        """Nothing."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, *_: Any) -> None:
        if error is not None and is_out_of_memory(error) and REMEDY not in str(error):
            raise MemoryError(f"memory ran out, and the step has failed: {error}. {REMEDY}") from error


def make_room(device: torch.device) -> None:
    """Frees what the failed attempt left: objects in cycles, and what torch or the C library keep of it."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    else:
        release_freed_memory()


def report_shrunk(attempted: int, chunk: int) -> None:
    """Warns that a measurement had to go on with fewer directions at once."""
    warn(
        f"{attempted} directions at once did not fit in memory: this step went on with {chunk} at once; pass "
        f"chunk={chunk} to spare the failed attempts.",
        RuntimeWarning,
    )
