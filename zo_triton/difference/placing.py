"""Functions that put elements of a source, or a constant, into places of a target: scatter, ``x[mask] = y``.

Which element goes where does not depend on the values. So the function is run once on the elements' numbers, and
what stands in the result tells where each element's difference comes from.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from zo_triton.difference.mode import DifferenceMode

SOURCES: dict[str, tuple[int, tuple[str, ...]]] = {
    "__setitem__": (2, ()),
    "fill_diagonal": (1, ("fill_value",)),
    "index_copy": (3, ("tensor", "source")),
    "index_fill": (3, ("value",)),
    "index_put": (2, ("values",)),
    "masked_fill": (2, ("value",)),
    "masked_scatter": (2, ("source",)),
    "put": (2, ("source",)),
    "scatter": (3, ("src", "value")),
}
"""Name → where the function takes its source: the position, and the keywords."""

_COMBINING = ("reduce", "accumulate")


def places(name: str, args: tuple, kwargs: dict) -> bool:
    """Whether a call only places elements: not if it adds or multiplies them to those that are there."""
    combines = any(kwargs.get(option) for option in _COMBINING)
    if name in ("index_put", "put") and len(args) > 3:
        combines = combines or bool(args[3])
    return name in SOURCES and not combines


def placed(mode: DifferenceMode, function: Callable, name: str, args: tuple, kwargs: dict) -> Tensor:
    """The difference of what a placing function makes of its target, [P, *target.shape].

    Args:
        mode: Supplies the arguments' differences.
        function: Returns a new tensor, or writes to its first argument.
        name: Its key in :data:`SOURCES`.
        args: Its positional arguments: the target comes first, unless it is the keyword ``input``.
        kwargs: Its keyword arguments.
    """
    kwargs = dict(kwargs)
    target = args[0] if args else kwargs["input"]
    numbers = torch.arange(target.numel(), dtype=torch.int64, device=target.device).view(target.shape)
    if args:
        args = (numbers, *args[1:])
    else:
        kwargs["input"] = numbers
    position, keywords = SOURCES[name]
    keyword = next((each for each in keywords if each in kwargs), None)
    source = args[position] if keyword is None else kwargs[keyword]
    change = mode.difference(source)
    marks: Tensor | int = -1
    if change is not None:
        first = target.numel()
        marks = torch.arange(first, first + source.numel(), dtype=torch.int64, device=source.device)
        marks = marks.view(source.shape)
    elif isinstance(source, Tensor):
        marks = torch.full(source.shape, -1, dtype=torch.int64, device=source.device)
    if keyword is None:
        args = (*args[:position], marks, *args[position + 1 :])
    else:
        kwargs[keyword] = marks
    result = function(*args, **kwargs)
    origins = numbers if result is None else result
    kept = mode.difference(target)
    dtype = torch.complex64 if target.is_complex() else mode.level
    every = [torch.zeros(mode.evaluations, target.numel(), dtype=dtype, device=target.device)]
    if kept is not None:
        every = [kept.reshape(mode.evaluations, -1).to(dtype)]
    if change is not None:
        every.append(change.reshape(mode.evaluations, -1).to(dtype))
    every.append(every[0].new_zeros(mode.evaluations, 1))
    return torch.cat(every, 1)[:, origins]
