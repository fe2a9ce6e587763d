"""Largest and smallest elements: max, min, amax, amin along axes, by the winner's gap as in ``pooling``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from zo_triton.difference.registry import rule
from zo_triton.difference.rules.elementwise import wide
from zo_triton.difference.rules.piecewise import maximum, minimum
from zo_triton.difference.rules.reduce import axes_of

if TYPE_CHECKING:
    from zo_triton.difference.mode import DifferenceMode


def extreme(a: Tensor, delta: Tensor, axes: list[int], keepdim: bool, largest: bool) -> Tensor:
    """max_j((a_j − m) + δ_j) with m the maximum over ``axes`` (negative), or the minimum's like."""
    if a.dim() == 0:
        return delta
    if largest:
        return (delta + (a - a.amax(axes, True))).amax(axes, keepdim)
    return (delta + (a - a.amin(axes, True))).amin(axes, keepdim)


def _along(mode: DifferenceMode, input: Tensor, dim: Any, keepdim: bool, largest: bool) -> Tensor:
    delta = mode.needed(input)
    return extreme(wide(input), delta, axes_of(dim, input.dim()), keepdim, largest)


def _register(name: str, largest: bool) -> None:
    @rule(name)
    def _(mode: DifferenceMode, base: Any, /, input: Tensor, *args: Any, **kwargs: Any) -> Any:
        other = kwargs.get("other", args[0] if args else None)
        if isinstance(other, Tensor):
            return (maximum if largest else minimum)(mode, base, input, other)
        dim = kwargs.get("dim", other)
        keepdim = kwargs.get("keepdim", args[1] if len(args) > 1 else False)
        if isinstance(base, Tensor):
            return _along(mode, input, None, False, largest)
        return [_along(mode, input, dim, keepdim, largest), None]

    @rule(f"a{name}")
    def _(mode: DifferenceMode, base: Tensor, input: Tensor, dim: Any = (), keepdim: bool = False) -> Tensor:
        return _along(mode, input, dim, keepdim, largest)


_register("max", True)
_register("min", False)


@rule("aminmax")
def aminmax(
    mode: DifferenceMode, base: Any, input: Tensor, *, dim: Any = None, keepdim: bool = False
) -> list[Tensor]:
    """Both at once."""
    return [_along(mode, input, dim, keepdim, largest) for largest in (False, True)]
