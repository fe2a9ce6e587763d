"""Variances, standard deviations and norms along axes.

With c the centred values and d their differences, a mean square moves by mean(d(2c + d)), and a root of v by
Δv/(√v + √v').
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from zo_triton.difference.registry import rule
from zo_triton.difference.rules.elementwise import absolute_difference, root_difference, wide
from zo_triton.difference.rules.extremes import extreme
from zo_triton.difference.rules.reduce import axes_of

if TYPE_CHECKING:
    from zo_triton.difference.mode import DifferenceMode


def _lines(
    mode: DifferenceMode, input: Tensor, dim: Any, keepdim: bool
) -> tuple[Tensor, Tensor, list[int], bool]:
    """a, δ, the reduced axes and whether they stay; a number becomes a line of one element, which doesn't."""
    a, delta = wide(input), mode.needed(input)
    if input.dim() == 0:
        return a.unsqueeze(0), delta.unsqueeze(1), [-1], False
    return a, delta, axes_of(dim, input.dim()), keepdim


def _variance(
    mode: DifferenceMode, input: Tensor, dim: Any, correction: Any, keepdim: bool
) -> tuple[Tensor, Tensor]:
    """Difference of the variance, and the variance."""
    a, delta, axes, keepdim = _lines(mode, input, dim, keepdim)
    centred = a - a.mean(axes, keepdim=True)
    change = delta - delta.mean(axes, keepdim=True, dtype=a.dtype)
    count = 1
    for axis in axes:
        count *= a.shape[axis]
    divisor = count - (1 if correction is None else float(correction))
    moved = ((2 * centred + change) * change).sum(axes, keepdim=keepdim) / divisor
    return moved, centred.square().sum(axes, keepdim=keepdim) / divisor


def _arguments(args: tuple, kwargs: dict) -> tuple[Any, Any, bool]:
    """dim, correction, keepdim: ``var(dim, unbiased, keepdim)``, ``var(unbiased)``, ``var(dim, correction=1)``."""
    dim = kwargs.get("dim")
    correction = kwargs.get("correction", kwargs.get("unbiased"))
    keepdim = kwargs.get("keepdim", False)
    given = list(args)
    if given and not isinstance(given[0], bool):
        dim = given.pop(0)
    if given:
        correction = given.pop(0)
    if given:
        keepdim = given.pop(0)
    return dim, correction, keepdim


def _register(name: str, root: bool) -> None:
    def of(mode: DifferenceMode, input: Tensor, args: tuple, kwargs: dict) -> Tensor:
        change, variance = _variance(mode, input, *_arguments(args, kwargs))
        return root_difference(variance, change) if root else change

    @rule(name)
    def _(mode: DifferenceMode, base: Tensor, /, input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return of(mode, input, args, kwargs)

    @rule(f"{name}_mean")
    def _(mode: DifferenceMode, base: Any, /, input: Tensor, *args: Any, **kwargs: Any) -> list[Tensor]:
        dim, _, keepdim = _arguments(args, kwargs)
        _, delta, axes, keepdim = _lines(mode, input, dim, keepdim)
        mean = delta.mean(axes, keepdim=keepdim, dtype=torch.float32)
        return [of(mode, input, args, kwargs), mean]


_register("var", False)
_register("std", True)


def _norm(mode: DifferenceMode, input: Tensor, order: Any, dim: Any, keepdim: bool) -> Any:
    a, delta, axes, keepdim = _lines(mode, input, dim, keepdim)
    return _norm_difference(a, delta, order, axes, keepdim)


def _norm_difference(a: Tensor, delta: Tensor, order: Any, axes: list[int], keepdim: bool) -> Any:
    """The vector norms of order 1, 2 and ∞."""
    if order in (None, "fro", 2):
        change = ((2 * a + delta) * delta).sum(axes, keepdim=keepdim)
        square = a.square().sum(axes, keepdim=keepdim)
        return root_difference(square, change)
    absolute = absolute_difference(a, delta)
    if order == 1:
        return absolute.sum(axes, keepdim=keepdim)
    if order == float("inf"):
        return extreme(a.abs(), absolute, axes, keepdim, True)
    return NotImplemented


@rule("norm")
def norm(
    mode: DifferenceMode,
    base: Tensor,
    input: Tensor,
    p: Any = "fro",
    dim: Any = None,
    keepdim: bool = False,
    dtype: Any = None,
) -> Any:
    """``torch.norm``, which takes matrices for vectors."""
    return _norm(mode, input, p, dim, keepdim)


@rule("vector_norm", owner=torch.linalg)
def vector_norm(
    mode: DifferenceMode,
    base: Tensor,
    input: Tensor,
    ord: Any = 2,
    dim: Any = None,
    keepdim: bool = False,
    *,
    dtype: Any = None,
) -> Any:
    """``torch.linalg.vector_norm``."""
    return _norm(mode, input, ord, dim, keepdim)


@rule("norm", owner=torch.linalg)
def linalg_norm(
    mode: DifferenceMode,
    base: Tensor,
    input: Tensor,
    ord: Any = None,
    dim: Any = None,
    keepdim: bool = False,
    *,
    dtype: Any = None,
) -> Any:
    """``torch.linalg.norm`` where it means a vector norm."""
    vector = input.dim() == 1 or isinstance(dim, int) or ord in (None, "fro")
    return _norm(mode, input, ord, dim, keepdim) if vector else NotImplemented


@rule("cdist")
def cdist(
    mode: DifferenceMode, base: Tensor, x1: Tensor, x2: Tensor, p: float = 2.0, compute_mode: Any = None
) -> Any:
    """The vector norms of all differences between rows."""
    left, right = x1.unsqueeze(-2), x2.unsqueeze(-3)
    apart = left - right
    mode.reserve(apart.numel())
    da, db = mode.difference(x1), mode.difference(x2)
    da = None if da is None else mode.align(da, apart.dim() - 1).unsqueeze(-2)
    db = None if db is None else -mode.align(db, apart.dim() - 1).unsqueeze(-3)
    change = da if db is None else db if da is None else da + db
    if change is None:
        return NotImplemented
    return _norm_difference(wide(apart), change.expand(-1, *apart.shape), p, [-1], False)
