"""Tensors that were made of the trained parameters where nobody saw it: before the closure, or in another thread.

A closure runs without autograd, so that what it computes has no history. A tensor that has one, and carries no
difference, counts as constant; if its history ends in a trained parameter, backpropagation would not have it so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from torch import Tensor

from zo_triton.difference.fallback import warn_once

if TYPE_CHECKING:
    from zo_triton.difference.mode import DifferenceMode

LONGEST = 20_000
"""Functions of a history that are looked at."""

_TEXT = (
    "the closure reads a tensor that was made of trained parameters where it can't be seen, before the closure or "
    "in another thread: it counts as constant. Make it inside the closure, or .detach() it if that is meant."
)


def check(mode: DifferenceMode, function: Callable, args: tuple, kwargs: dict) -> None:
    """Warns once that a function is handed a constant that was made of a trained parameter."""
    handed = _is_handed_one(mode, args) or (kwargs and _is_handed_one(mode, kwargs.values()))
    if handed and function is not Tensor.detach:
        warn_once(check, _TEXT)


def _is_handed_one(mode: DifferenceMode, values: Iterable[Any]) -> bool:
    for value in values:
        if isinstance(value, Tensor):
            if value.grad_fn is not None and not mode.carries((value,)) and _is_made_of(value, mode.ids):
                return True
        elif type(value) in (list, tuple) and _is_handed_one(mode, value):
            return True
    return False


def _is_made_of(value: Tensor, ids: dict[int, int]) -> bool:
    """Whether a history has one of these tensors at an end."""
    todo: list[Any] = [value.grad_fn]
    seen: set[Any] = set()
    while todo and len(seen) < LONGEST:
        function = todo.pop()
        if function is None or function in seen:
            continue
        seen.add(function)
        if id(getattr(function, "variable", None)) in ids:
            return True
        todo += [each for each, _ in function.next_functions]
    return False
