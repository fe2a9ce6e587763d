"""``torch.func`` inside the closure: refused where an operand carries a difference.

A transform wraps its operands in tensors that the mode has never seen and unwraps the result past it, so a
difference would be lost without a word. Masks and positions, which carry none, may go through ``vmap``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch._C._functorch import get_unwrapped, is_functorch_wrapped_tensor

from zo_triton.difference.fallback import refuse
from zo_triton.difference.registry import HANDLERS
from zo_triton.difference.rules.passive import on_base

if TYPE_CHECKING:
    from zo_triton.difference.mode import DifferenceMode


def check(mode: DifferenceMode, function: Callable, args: tuple, kwargs: dict) -> None:
    """Refuses a function under a transform whose operand, unwrapped, carries a difference.

    Raises:
        MissingRuleError: It does, and the function is more than a question about it.
    """
    if HANDLERS.get(function) is not on_base and mode.carries(_unwrapped((*args, *kwargs.values()))):
        refuse(function, "runs inside a torch.func transform (vmap, grad, jvp, …), where none can follow")


def _unwrapped(values: Iterable[Any]) -> list[Any]:
    """The operands as they were before any transform; lists stay lists."""
    found: list[Any] = []
    for value in values:
        if isinstance(value, (list, tuple)):
            found.append(_unwrapped(value))
            continue
        while isinstance(value, Tensor) and is_functorch_wrapped_tensor(value):
            value = get_unwrapped(value)
        found.append(value)
    return found
