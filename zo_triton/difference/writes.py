"""Functions that write to arguments beside what they return: running statistics, observers, users' operators.

Their names don't tell, as that of ``add_`` does. Operators have schemas, which say what is written to; torch's own
for batch and instance norms pass over the running statistics.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch._ops import OpOverload, OpOverloadPacket

from zo_triton.difference.tape import Recorder

if TYPE_CHECKING:
    from zo_triton.difference.mode import DifferenceMode

_UNTOLD = {"running_mean", "running_var"}
"""Arguments that are written to and whose schemas don't say so."""


def is_users(function: Callable) -> bool:
    """Whether this is an operator of ``torch.library``, whose name says nothing about what it writes to."""
    if isinstance(function, OpOverload):
        return function.namespace != "aten"
    return isinstance(function, OpOverloadPacket) and not function._qualified_op_name.startswith("aten::")


def written_by(function: Callable, args: tuple, kwargs: dict) -> list[Tensor]:
    """The tensors among the arguments that the function may write to."""
    places = _written_places(function)
    if not places:
        return []
    values = [args[place] for place in places if isinstance(place, int) and place < len(args)]
    values += [kwargs[place] for place in places if place in kwargs]
    found: list[Any] = []
    for value in values:
        found += value if isinstance(value, (list, tuple)) else (value,)
    return [each for each in found if isinstance(each, Tensor)]


def make_ready(mode: DifferenceMode, values: Iterable[Any]) -> None:
    """Makes ready for a write to tensors: what they held is kept for whoever needs it later."""
    targets = [each for each in values if isinstance(each, Tensor)]
    if mode.nodes is not None:
        mode.nodes.before_write(targets)
    for each in targets:
        if id(each) not in mode.entries and mode.memories.find(each) is None:
            mode.remember(each)
    mode.resolve_all()
    if isinstance(mode.tape, Recorder):
        for each in targets:
            mode.tape.overwritten(each)


@lru_cache(maxsize=256)
def _written_places(function: Callable) -> frozenset[int | str]:
    """Positions and names of the arguments that the function may write to."""
    places: set[int | str] = set()
    for schema in _schemas(function):
        for position, argument in enumerate(schema.arguments):
            alias = argument.alias_info
            if (alias is not None and alias.is_write) or argument.name in _UNTOLD:
                places |= {argument.name} if argument.kwarg_only else {position, argument.name}
    return frozenset(places)


def _schemas(function: Callable) -> list[Any]:
    if isinstance(function, OpOverload):
        return [function._schema]
    if isinstance(function, OpOverloadPacket):
        return [getattr(function, name)._schema for name in function.overloads()]
    name = getattr(function, "__name__", "")
    if getattr(torch._C._VariableFunctions, name, None) is not function:
        return []
    return [
        each
        for each in torch._C._jit_get_schemas_for_operator(f"aten::{name}")
        if each.overload_name != "out"
    ]
