"""Running sums of logarithms, products and extremes: a pairwise rule, applied step by step along an axis.

The running value's difference and the next element's give the next running value's: what is exact for two is exact
for all.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from zo_triton.difference.registry import rule
from zo_triton.difference.rules.elementwise import wide
from zo_triton.difference.rules.piecewise import larger, smaller
from zo_triton.difference.rules.softmax import log_sum

if TYPE_CHECKING:
    from zo_triton.difference.mode import DifferenceMode

Pair = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""(running a, its δ, next b, its δ) → the difference of what the two make."""


def _product(a: Tensor, da: Tensor, b: Tensor, db: Tensor) -> Tensor:
    return da * b + (a + da) * db


def _scan(values: Tensor, a: Tensor, delta: Tensor, dim: int, pair: Pair, mends: bool) -> Tensor:
    """[P, *a.shape], the difference of the running values along an axis; mended step by step if it is at all."""
    if a.dim() == 0 or a.numel() == 0:
        return delta
    axis = dim % a.dim()
    running, elements, changes = wide(values).unbind(axis), wide(a).unbind(axis), delta.unbind(axis + 1)
    found = [changes[0].to(running[0].dtype)]
    for step in range(1, len(elements)):
        change = pair(running[step - 1], found[-1], elements[step], changes[step])
        found.append(_mended(running[step], found[-1], change) if mends else change)
    return torch.stack(found, axis + 1)


def _mended(value: Tensor, before: Tensor, change: Tensor) -> Tensor:
    """A running value's difference, zero where the value is infinite and stays so."""
    return torch.where(value.isinf() & change.isnan() & before.isfinite(), 0.0, change)


def _register(name: str, pair: Pair, with_places: bool = False) -> None:
    @rule(name)
    def _(mode: DifferenceMode, base: Any, input: Tensor, dim: int, *, dtype: Any = None) -> Any:
        values = base[0] if with_places else base
        found = _scan(values, input, mode.needed(input), dim, pair, mode.plan.mends)
        return [found, None] if with_places else found


_register("cumprod", _product)
_register("logcumsumexp", log_sum)
_register("cummax", larger, with_places=True)
_register("cummin", smaller, with_places=True)
