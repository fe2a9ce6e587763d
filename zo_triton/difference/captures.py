"""What a function that is handed to another one captures, such as the ``score_mod`` of ``flex_attention``.

Operators of higher order are subtracted, and only their operands are moved: what a function among them reads
besides would count as constant without a word.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from inspect import getclosurevars
from types import FunctionType, MethodType
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

if TYPE_CHECKING:
    from zo_triton.difference.mode import DifferenceMode

DEPTH = 4
"""Of functions that capture functions."""


def captures_differences(mode: DifferenceMode, leaves: Sequence[Any]) -> bool:
    """Whether a function among these reads a tensor that carries a difference, which it was not handed."""
    functions = [leaf for leaf in leaves if isinstance(leaf, (FunctionType, MethodType))]
    return any(mode.carries(list(_captured(function, DEPTH))) for function in functions)


def _captured(function: Callable, depth: int) -> Iterator[Tensor]:
    """Tensors that a Python function reads by name, also as attributes of an object that it captures."""
    if isinstance(function, MethodType):
        own, function = [function.__self__], function.__func__
    else:
        own = []
    if not isinstance(function, FunctionType) or depth == 0:
        return
    names = getclosurevars(function)
    values = [*own, *names.nonlocals.values(), *names.globals.values(), *(function.__defaults__ or ())]
    for value in tree_leaves(values):
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (FunctionType, MethodType)):
            yield from _captured(value, depth - 1)
        else:
            yield from _attributes(value, set(function.__code__.co_names))


def _attributes(value: Any, names: set[str]) -> Iterator[Tensor]:
    if isinstance(value, nn.Module):
        yield from (each for name, each in value.named_parameters() if not names.isdisjoint(name.split(".")))
    held = getattr(value, "__dict__", None)
    if isinstance(held, dict) and not isinstance(value, type):
        yield from (each for name, each in held.items() if name in names and isinstance(each, Tensor))
