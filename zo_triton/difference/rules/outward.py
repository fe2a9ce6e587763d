"""Ways out of the table of differences: gradients are refused; arrays, lists and raw memory are announced.

What leaves torch usually comes back as a constant and flows on into the loss. ``.item()`` and ``float()`` are no
such way: they serve control flow and logging, which see the base.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from zo_triton.difference import fallback
from zo_triton.difference.registry import COMPLEX, HANDLERS, register

if TYPE_CHECKING:
    from zo_triton.difference.mode import DifferenceMode

GRADIENTS = (torch.autograd.grad, torch.autograd.backward, Tensor.backward, torch._VF._make_dual)
READERS = (
    Tensor.numpy, Tensor.tolist, Tensor.__array__, Tensor.__dlpack__, Tensor.untyped_storage, Tensor.storage,
    Tensor.__reduce_ex__, Tensor.__cuda_array_interface__.__get__,
)  # fmt: skip
COPIES = (Tensor.tolist, Tensor.__reduce_ex__)
"""Readers whose result has memory of its own."""


def differentiate(mode: DifferenceMode, function: Callable, args: tuple, kwargs: dict) -> Any:
    """Refuses to differentiate what carries a difference: the gradient would have one that nobody knows."""
    if mode.carries(args, kwargs):
        fallback.refuse(function, "returns derivatives, whose own differences nobody knows")
    return function(*args, **kwargs)


def read(mode: DifferenceMode, function: Callable, args: tuple, kwargs: dict) -> Any:
    """Hands out the base, and says once that the difference stays behind.

    What torch shares its memory with may write to it, too.
    """
    if mode.carries(args, kwargs):
        name = fallback.name_of(function)
        fallback.warn_once(
            function,
            f"{name} takes the values of a tensor that depends on the trained parameters out of torch; what is "
            "made of them counts as constant. If the loss depends on it, write it with torch functions, or "
            "wrap the closure in zo.BlackBox to evaluate it direction by direction.",
        )
    if function not in COPIES and args and isinstance(args[0], Tensor):
        mode.lend(args[0])
    return function(*args, **kwargs)


for _table in (HANDLERS, COMPLEX):
    register(GRADIENTS, differentiate, _table)
    register(READERS, read, _table)
