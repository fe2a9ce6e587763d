"""What every launcher needs: the tensor's device made current, and dtypes in Triton's words."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar

import torch
import triton
import triton.language as tl
from torch import Tensor

TRITON_DTYPES = {
    torch.float16: tl.float16,
    torch.bfloat16: tl.bfloat16,
    torch.float32: tl.float32,
    torch.float64: tl.float64,
}
COMPUTE_DTYPES = (torch.float32, torch.bfloat16)

OPTIONS = {"enable_fp_fusion": True}
"""Compiler options of every launch: named, so that a changed default changes no value."""


_recorder: ContextVar[list[tuple[Callable, dict[str, object]]] | None] = ContextVar("recorder", default=None)


@contextmanager
def recording() -> Iterator[list[tuple[Callable, dict[str, object]]]]:
    """Inside the ``with`` block launches run nothing: each adds its kernel and arguments to the list."""
    launches: list[tuple[Callable, dict[str, object]]] = []
    token = _recorder.set(launches)
    try:
        yield launches
    finally:
        _recorder.reset(token)


def device_guard(tensor: Tensor) -> torch.cuda.device_of | nullcontext[None]:
    """A context in which the tensor's GPU is current; nothing at all for the interpreter's CPU tensors."""
    return torch.cuda.device_of(tensor) if tensor.is_cuda else nullcontext()


def compute_dtype(dtype: torch.dtype) -> tl.dtype:
    """The compute dtype in Triton's words.

    Raises:
        TypeError: It is neither float32 nor bfloat16.
    """
    if dtype not in COMPUTE_DTYPES:
        raise TypeError(f"the compute dtype must be one of {COMPUTE_DTYPES}, got {dtype}.")
    return TRITON_DTYPES[dtype]


def launch(kernel: Callable, programs: int, tensor: Tensor, **arguments: object) -> None:
    """Runs ``programs`` programs of a kernel on the tensor's device; none if there is nothing to do.

    Raises:
        ValueError: More programs than a one-dimensional grid holds.
    """
    if programs == 0:
        return
    if programs >= 2**31:
        raise ValueError(
            f"a launch of {programs} programs exceeds 2**31 - 1; take fewer directions at a time."
        )
    launches = _recorder.get()
    if launches is not None:
        launches.append((kernel, {**arguments, **OPTIONS}))
        return
    with device_guard(tensor):
        kernel[(programs,)](**arguments, **OPTIONS)  # type: ignore[index]


def blocks(size: int, block: int) -> int:
    """How many blocks cover a size."""
    return int(triton.cdiv(size, block))
