"""Which torch function has which rule, and the two ways to write one.

A *rule* receives the mode, the base result and the function's own arguments, and returns the difference of the
result: [P, *shape], a list of them for a tuple of results, None where the result carries none, or
``NotImplemented`` for a combination of arguments that it doesn't cover (the generic fallback then takes it).
A *handler* does everything itself, the base result included.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from zo_triton.difference.mode import DifferenceMode

Handler = Callable[["DifferenceMode", Callable, tuple, dict], Any]

HANDLERS: dict[Any, Handler] = {}
"""torch function, method or property getter → handler."""


def named(*names: str, owner: Any = None) -> list[Any]:
    """Every function of these names in torch, ``Tensor``, ``torch.nn.functional`` and ``torch.special``.

    Or in ``owner`` alone, where another's has other arguments. A property ``x.T`` reaches a mode as its
    getter's ``__get__``.
    """
    found = []
    for place in (torch, Tensor, F, torch.special) if owner is None else (owner,):
        for name in names:
            function = getattr(place, name, None)
            if function is None:
                continue
            if place is Tensor and not callable(function):
                function = function.__get__
            found.append(function)
    if not found:
        raise LookupError(f"torch {torch.__version__} has none of {names}.")
    return found


def handler(*names: str) -> Callable[[Handler], Handler]:
    """Registers a handler for every function of these names."""

    def register(function: Handler) -> Handler:
        for target in named(*names):
            HANDLERS[target] = function
        return function

    return register


def rule(*names: str, owner: Any = None) -> Callable[[Callable], Callable]:
    """Registers a rule for every function of these names, or for those of ``owner`` alone."""

    def register(compute: Callable) -> Callable:
        @wraps(compute)
        def handle(mode: DifferenceMode, function: Callable, args: tuple, kwargs: dict) -> Any:
            if not mode.carries(args, kwargs):
                return function(*args, **kwargs)
            base = function(*args, **kwargs)
            return mode.apply(compute, base, function, args, kwargs)

        for target in named(*names, owner=owner):
            HANDLERS[target] = handle
        return compute

    return register
