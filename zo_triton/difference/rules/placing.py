"""Scatter and its kin that return a new tensor: each element keeps the difference of what it came from."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch import Tensor

from zo_triton.difference.placing import placed, places
from zo_triton.difference.registry import handler_of_any, named, register
from zo_triton.difference.rules.multilinear import jointly

if TYPE_CHECKING:
    from zo_triton.difference.mode import DifferenceMode


def _compute(mode: DifferenceMode, function: Callable, base: Tensor, *args: Any, **kwargs: Any) -> Any:
    name = function.__name__
    if places(name, args, kwargs):
        return placed(mode, function, name, args, kwargs)
    return jointly(mode, function, base, *args, **kwargs) if name == "index_put" else NotImplemented


register(named("scatter", "index_fill", "index_put", "put"), handler_of_any(_compute))
