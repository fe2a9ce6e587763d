"""What every launcher needs: the tensor's device made current, and dtypes in Triton's words."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from functools import cache
from typing import NamedTuple

import torch
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


class Launch(NamedTuple):
    """A kernel, its arguments with its options, and how many programs run it."""

    kernel: Callable
    arguments: dict[str, object]
    programs: int


_recorder: ContextVar[list[Launch] | None] = ContextVar("recorder", default=None)


@contextmanager
def recording() -> Iterator[list[Launch]]:
    """Inside the ``with`` block launches run nothing: each adds itself to the list."""
    launches: list[Launch] = []
    token = _recorder.set(launches)
    try:
        yield launches
    finally:
        _recorder.reset(token)


_chip: ContextVar[str | None] = ContextVar("zo_triton_chip", default=None)


@contextmanager
def launching_for(chip: str) -> Iterator[None]:
    """Launchers inside choose their tiles for this chip (see :func:`chip_of`), which need not be here."""
    token = _chip.set(chip)
    try:
        yield
    finally:
        _chip.reset(token)


FAMILIES = {"sm_8": "sm_80", "sm_10": "sm_100", "sm_12": "sm_80", "gfx": "gfx942"}
"""Beginnings of chips' names, and the chip whose tiles suit all of them: 12.x multiplies as A100 does."""


def chip_of(tensor: Tensor) -> str:
    """The chip whose tiles suit the tensor's device: one for each of :data:`FAMILIES`.

    Others go by their own name, ``sm_90`` for instance; a CPU has none.
    """
    name = _chip.get() or (_chip_name(tensor.device.index or 0) if tensor.is_cuda else "")
    return next((chip for begin, chip in FAMILIES.items() if name.startswith(begin)), name)


@cache
def _chip_name(index: int) -> str:
    properties = torch.cuda.get_device_properties(index)
    return str(properties.gcnArchName) if torch.version.hip else f"sm_{properties.major}{properties.minor}"


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
        launches.append(Launch(kernel, {**arguments, **OPTIONS}, programs))
        return
    with device_guard(tensor):
        kernel[(programs,)](**arguments, **OPTIONS)  # type: ignore[index]


def blocks(size: int, block: int) -> int:
    """How many blocks cover a size. Triton's own function, ``cdiv``, takes the host three hundred times as long."""
    return -(-size // block)


def power_of_two(least: int) -> int:
    """The smallest power of two that is at least this positive number; the same is true of ``next_power_of_2``."""
    return 1 << (least - 1).bit_length()
