"""softmax, log_softmax and logsumexp: all follow from δ and Σ p·expm1(δ) with p = softmax(a)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from zo_triton import ops
from zo_triton.difference.registry import rule
from zo_triton.difference.rules.elementwise import of_two, wide
from zo_triton.difference.rules.reduce import axes_of
from zo_triton.ops import engines

if TYPE_CHECKING:
    from zo_triton.difference.mode import DifferenceMode


ABSORBING = 1e30
"""A score below minus this is a mask's, ``finfo.min`` for one: nothing is left in it of what it was added to."""


def log_normaliser(a: Tensor, delta: Tensor, dim: Any) -> Tensor:
    """Δ logsumexp(a) = log1p(Σ p·expm1(δ)) along ``dim`` (negative), which is kept.

    Where the sum comes near −1 the change is of order one: subtracting the two values is then the accurate
    way.
    """
    total = _total(a, delta, dim)
    result, extreme = torch.log1p(total), _is_extreme(total)
    if engines.any_set(extreme):
        direct = torch.logsumexp(torch.log_softmax(a, dim) + delta, dim, keepdim=True)
        result = torch.where(extreme, direct, result)
    return result


def _total(a: Tensor, delta: Tensor, dim: Any) -> Tensor:
    return (torch.softmax(a, dim) * torch.expm1(delta)).sum(dim, keepdim=True)


def _is_extreme(total: Tensor) -> Tensor:
    return ~((total > -0.5) & (total < 1e6))


def log_softmax_difference(a: Tensor, delta: Tensor, dim: int) -> Tensor:
    """Δ log_softmax(a) = δ − Δ logsumexp(a), in float32 or wider; ``dim`` is negative.

    Where that is the difference of two large numbers, they are made small first: what all δ share changes
    nothing, so the base's largest element is taken for the one that stands still.
    """
    a, delta = wide(a), wide(delta)
    total = _total(a, delta, dim)
    if not engines.any_set(_is_extreme(total)):
        return delta - torch.log1p(total)
    values, delta = torch.broadcast_tensors(a, delta)
    delta = delta - delta.gather(dim, values.argmax(dim, keepdim=True))
    return delta - log_normaliser(a, delta, dim)


def softmax_difference(p: Tensor, a: Tensor, delta: Tensor, dim: int) -> Tensor:
    """p' − p = p·expm1(Δ log p) for p = softmax(a); p' itself where it grows so much that p may be zero."""
    change = log_softmax_difference(a, delta, dim)
    result = p * torch.expm1(change)
    grows = change > 1
    if engines.any_set(grows):
        result = torch.where(grows, (torch.log_softmax(wide(a), dim) + change).exp() - p, result)
    return result


def _along_classes(name: str, change: Callable[[Tensor, Tensor, Tensor, int], Tensor]) -> None:
    """Registers a function of a tensor and an axis; ``change(base, a, δ, axis)`` is its difference."""

    @rule(name)
    def _(
        mode: DifferenceMode,
        base: Tensor,
        input: Tensor,
        dim: int | None = None,
        _stacklevel: int = 3,
        dtype: Any = None,
    ) -> Any:
        if dim is None:  # torch's own choice, of which it warns
            dim = 0 if input.dim() in (0, 1, 3) else 1
        if input.dim() == 0:  # a single share, which is always 1
            return torch.zeros_like(mode.needed(input))
        axis = _from_the_end(input, dim)
        return change(base, input, _but_in_lost_rows(input, mode.needed(input), axis, name), axis)


def _but_in_lost_rows(a: Tensor, delta: Tensor, dim: int, name: str) -> Tensor:
    """δ, and zeros where a mask's numbers have absorbed all scores of a row, whose shares are then alike.

    Such a row is, say, that of a query that may look nowhere. Of one of −∞ torch makes no shares at all.
    """
    lost = a.amin(dim, True) > ABSORBING if name == "softmin" else a.amax(dim, True) < -ABSORBING
    return delta.masked_fill(lost, 0.0) if engines.any_set(lost) else delta


def _in_rows(base: Tensor, a: Tensor, delta: Tensor, dim: int, logarithm: bool) -> Tensor:
    """Δ softmax or Δ log_softmax: by the engine's kernel along the last axis, where it has one."""
    a, found = wide(a), None
    if dim == -1 and base.dtype == torch.float32:
        shares = base.exp() if logarithm else base
        found = ops.softmax_difference(shares, a, wide(delta), logarithm)
    if found is not None:
        return found
    return log_softmax_difference(a, delta, dim) if logarithm else softmax_difference(base, a, delta, dim)


_along_classes("log_softmax", lambda base, a, delta, dim: _in_rows(base, a, delta, dim, logarithm=True))
_along_classes("softmax", lambda base, a, delta, dim: _in_rows(base, a, delta, dim, logarithm=False))
_along_classes("softmin", lambda base, a, delta, dim: _in_rows(base, -a, -delta, dim, logarithm=False))


def log_sum(a: Tensor, da: Tensor, b: Tensor, db: Tensor) -> Tensor:
    """Δ log(eᵃ + eᵇ)."""
    values, changes = torch.broadcast_tensors(a, b), torch.broadcast_tensors(da, db)
    return log_normaliser(torch.stack(values, -1), torch.stack(changes, -1), -1).squeeze(-1)


@rule("logaddexp")
def logaddexp(mode: DifferenceMode, base: Tensor, input: Tensor, other: Tensor) -> Tensor:
    """The logsumexp of two."""
    return of_two(mode, base, input, other, log_sum)


@rule("logsumexp")
def logsumexp(mode: DifferenceMode, base: Tensor, input: Tensor, dim: Any, keepdim: bool = False) -> Any:
    """log1p(Σ p·expm1(δ)) along the axes."""
    delta = mode.needed(input)
    if input.dim() == 0:
        return delta
    axes = tuple(axes_of(dim, input.dim()))
    last = tuple(range(-len(axes), 0))
    a, delta = (wide(each).movedim(axes, last).flatten(-len(axes)) for each in (input, delta))
    result = log_normaliser(a, delta, -1)
    return result.reshape(mode.evaluations, *base.shape)


def _from_the_end(input: Tensor, dim: int) -> int:
    return dim - input.dim() if dim >= 0 else dim
