"""How tensors lie in memory, and new ones whose first touch is cheap.

A fresh page of 4 KiB costs a fault of its own, on a virtual machine several times what filling it does (measured:
28 ms for 38 MB). NumPy asks the system for pages of 2 MiB where an array is large, torch does not.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Sequence
from contextlib import suppress
from math import prod
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch
    from torch import Tensor

LARGE = 4 << 20
"""Bytes from which NumPy asks for large pages."""

_LINE = 64
"""Bytes of a cache line, at which torch's own tensors start."""

REST = 16 << 20
"""Bytes of address space that a large tensor leaves.

oneDNN, LLVM and libgomp end the process where they are refused a small block.
"""

MOST_KEPT = 256 << 20
"""Bytes that were freed and may stay, and twice those of the largest block among them."""

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""As glibc's ``malloc.h`` numbers what ``mallopt`` sets."""


def empty(shape: Sequence[int], dtype: torch.dtype, device: torch.device | str = "cpu") -> Tensor:
    """``torch.empty``; a large tensor on the CPU lies in large pages.

    Raises:
        MemoryError: There is too little on the CPU, or next to nothing would be left.
    """
    import torch  # compiled kernels, which only ask for room, do without it

    size = prod(shape) * dtype.itemsize
    if size < LARGE or torch.device(device).type != "cpu":
        return torch.empty(*shape, dtype=dtype, device=device)
    held = np.empty(size + _LINE, np.uint8)
    check_room(REST, f"a tensor of {size} bytes would leave too little")
    start = -held.ctypes.data % _LINE
    return torch.from_numpy(held[start : start + size]).view(dtype).view(*shape)


def check_room(size: int, purpose: str) -> None:
    """Refuses to go on where so many bytes of address space can't be had now.

    Args:
        size: Bytes; none is touched.
        purpose: Begins the message.

    Raises:
        MemoryError: They can't.
    """
    if not _has_room(size):
        release_freed_memory()
        if not _has_room(size):
            raise MemoryError(
                f"{purpose}: the libraries beneath need {size >> 20} MiB of address space; raise the process's "
                "memory limit."
            )


def _has_room(size: int) -> bool:
    try:
        mmap.mmap(-1, size, access=mmap.ACCESS_COPY).close()
    except OSError:
        return False
    return True


def check_rest(device: torch.device) -> None:
    """Refuses to go on with a convolution on the CPU where little is left.

    A thread in which oneDNN was refused memory for its code once makes none ever after.

    Raises:
        MemoryError: There is too little.
    """
    if device.type == "cpu":
        check_room(REST, "no convolution can begin")


def in_natural_order(difference: Tensor) -> bool:
    """Whether a [P, N, F] tensor has its features side by side; False where that says nothing: N or F of one."""
    _, samples, features = difference.shape
    return samples > 1 and features > 1 and difference.numel() > 0 and difference.stride(2) == 1


def keep_freed_memory() -> None:
    """Makes the C library keep memory that was freed, rather than fault it in again for the next tensor.

    glibc gives a block of more than 32 MiB back to the system at once, and what is free at the end of its heap
    beyond twice that. Each tensor of differences would be cleared page by page before it is written: 5 to 17 % of
    a small GPT-2's step (three measurements on a busy machine). Limits that the environment sets stay as they are;
    other C libraries too.
    """
    if any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ):
        return
    with suppress(OSError, TypeError, AttributeError):
        library = ctypes.CDLL(None)
        library.mallopt(_MMAP_THRESHOLD, MOST_KEPT // 2)
        library.mallopt(_TRIM_THRESHOLD, MOST_KEPT)


def release_freed_memory() -> None:
    """Makes the C library return what it has kept, where it is glibc: only ``malloc`` could use it."""
    with suppress(OSError, TypeError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
