"""``torch.func`` inside the closure: refused where an operand carries a difference.

A transform wraps its operands in tensors that the mode has never seen and unwraps the result past it, so a
difference would be lost without a word. Masks and positions, which carry none, may go through any. A ``torch.vmap``
of operands that carry differences is one function for the mode (``rules.mapped``); what it captures is met here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch._C._functorch import get_unwrapped, is_functorch_wrapped_tensor
from torch.utils._pytree import tree_leaves

from zo_triton.difference import fallback
from zo_triton.difference.registry import HANDLERS
from zo_triton.difference.rules.passive import on_base

if TYPE_CHECKING:
    from zo_triton.difference.mode import DifferenceMode


def check(mode: DifferenceMode, function: Callable, args: tuple, kwargs: dict) -> None:
    """Refuses a function under a transform whose operand, unwrapped, carries a difference.

    Raises:
        MissingRuleError: It does, and the function is more than a question about it.
    """
    if HANDLERS.get(function) is not on_base and mode.carries(list(_unwrapped((args, kwargs)))):
        fallback.refuse(
            function, "runs inside a torch.func transform (vmap, grad, jvp, …), where none can follow"
        )


def _unwrapped(values: Any) -> Iterator[Any]:
    """The operands as they were before any transform."""
    for value in tree_leaves(values):
        while isinstance(value, Tensor) and is_functorch_wrapped_tensor(value):
            value = get_unwrapped(value)
        yield value
