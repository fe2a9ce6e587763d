"""Which torch function has which rule, and the two ways to write one.

A *rule* receives the mode, the base result and the function's own arguments, and returns the difference of the
result: [P, *shape], a list of them for a tuple of results, None where the result carries none, or
``NotImplemented`` for a combination of arguments that it doesn't cover (the generic fallback then takes it).
A *handler* does everything itself, the base result included.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache, wraps
from types import BuiltinFunctionType, MethodDescriptorType
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import resolve_name

from zo_triton.difference import chains, fallback

if TYPE_CHECKING:
    from zo_triton.difference.mode import DifferenceMode

_NUMPY = {"axis": "dim", "keepdims": "keepdim", "x": "input", "a": "input", "x1": "input", "x2": "other"}
"""NumPy's names of arguments, which torch's own functions take as well."""

Handler = Callable[["DifferenceMode", Callable, tuple, dict], Any]

_WRITTEN_IN_C = (BuiltinFunctionType, MethodDescriptorType)

HANDLERS: dict[Any, Handler] = {}
"""torch function, method or property getter → handler, of real tensors."""

COMPLEX: dict[Any, Handler] = {}
"""The same where an argument is complex: only rules that hold in complex arithmetic stand here."""


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
            if function not in found:
                found.append(function)
    if not found:
        raise LookupError(f"torch {torch.__version__} has none of {names}.")
    return found


def register(targets: Iterable[Any], handle: Handler, table: dict[Any, Handler] | None = None) -> None:
    """Makes a handler that of these functions, in :data:`HANDLERS` unless in :data:`COMPLEX`.

    Raises:
        ValueError: One of them has another already.
    """
    table = HANDLERS if table is None else table
    for target in targets:
        present = table.setdefault(target, handle)
        if present is not handle:
            raise ValueError(
                f"{resolve_name(target) or target} has a rule in {present.__module__} already; "
                f"{handle.__module__} must not register another: keep one of the two."
            )


def spelled(function: Callable, kwargs: dict) -> dict:
    """Keyword arguments as rules expect them: without an ``out`` of None, and by torch's names, not NumPy's."""
    if "out" in kwargs:
        kwargs = {name: value for name, value in kwargs.items() if name != "out"}
    if kwargs.keys().isdisjoint(_NUMPY) or function not in HANDLERS:
        return kwargs
    own = _own_names(function)
    return {name if name in own else _NUMPY.get(name, name): value for name, value in kwargs.items()}


@lru_cache(maxsize=256)
def _own_names(function: Callable) -> frozenset[str]:
    """Those of NumPy's names that are the function's own, as ``x1`` is a distance's."""
    overloads = getattr(torch.ops.aten, function.__name__, None)
    if not isinstance(function, _WRITTEN_IN_C) or overloads is None:
        return frozenset(_NUMPY)
    schemas = (getattr(overloads, name)._schema for name in overloads.overloads())
    return frozenset(argument.name for schema in schemas for argument in schema.arguments)


def has_complex(args: Iterable[Any], kwargs: dict | None = None) -> bool:
    """Whether any argument is a complex tensor; lists are searched."""
    for value in args:
        if isinstance(value, Tensor):
            if value.is_complex():
                return True
        elif type(value) in (list, tuple) and has_complex(value):
            return True
    return kwargs is not None and has_complex(kwargs.values())


def handler(*names: str) -> Callable[[Handler], Handler]:
    """Registers a handler for every function of these names."""

    def decorate(function: Handler) -> Handler:
        register(named(*names), function)
        return function

    return decorate


def rule(*names: str, owner: Any = None, chain: bool = False) -> Callable[[Callable], Callable]:
    """Registers a rule for every function of these names, or for those of ``owner`` alone.

    With ``chain`` the rule works element by element or along rows, asks for no value, and so may run on symbols
    too: it becomes part of a chain where it can.
    """

    def decorate(compute: Callable) -> Callable:
        register(named(*names, owner=owner), handler_of(compute, chain))
        return compute

    return decorate


def is_dense(args: Iterable[Any]) -> bool:
    """Whether no argument is a sparse tensor, for which the rules are not written."""
    for value in args:  # noqa: SIM110 (a generator would cost each operation of a small step a microsecond)
        if isinstance(value, Tensor) and value.layout is not torch.strided:
            return False
    return True


def handler_of(compute: Callable, chain: bool = False) -> Handler:
    """The handler that runs a function on the base and then its rule, or leaves that pending in a chain."""

    @wraps(compute)
    def handle(mode: DifferenceMode, function: Callable, args: tuple, kwargs: dict) -> Any:
        if not mode.carries(args, kwargs):
            return function(*args, **kwargs)
        if not is_dense(args):
            return fallback.handle(mode, function, args, kwargs)
        base = mode.once(function, *args, **kwargs)
        if args and base is args[0]:  # as x.to(dtype) is x, and may go on being pending
            return base
        if chain and chains.defer(mode, compute, base, args, kwargs):
            return base
        return mode.apply(compute, base, function, args, kwargs)

    return handle


def handler_of_any(compute: Callable) -> Handler:
    """The same for a rule of many functions, which wants to know which: it gets the function after the mode."""

    @wraps(compute)
    def handle(mode: DifferenceMode, function: Callable, args: tuple, kwargs: dict) -> Any:
        if not mode.carries(args, kwargs):
            return function(*args, **kwargs)
        if not is_dense(args):
            return fallback.handle(mode, function, args, kwargs)

        def of_this(mode: DifferenceMode, /, *args: Any, **kwargs: Any) -> Any:
            return compute(mode, function, *args, **kwargs)

        return mode.apply(of_this, mode.once(function, *args, **kwargs), function, args, kwargs)

    return handle
