"""Sorted values: sort, msort and topk, by whoever stands in a place after the perturbation.

With m the base's element in a place and j the element that stands there afterwards, the place's value moves by
(a_j − m) + δ_j, which subtracts only neighbours. The order is found in float64. Indices are the base's own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from zo_triton.difference.registry import rule

if TYPE_CHECKING:
    from zo_triton.difference.mode import DifferenceMode


def _moved_to(input: Tensor, delta: Tensor, values: Tensor, standing: Tensor, axis: int) -> Tensor:
    """(a_j − m) + δ_j for the elements j, [P, *values.shape], that stand in the places of the values m."""
    return (input.expand_as(delta).gather(axis + 1, standing) - values) + delta.gather(axis + 1, standing)


def _sorted(mode: DifferenceMode, values: Tensor, input: Tensor, dim: int, descending: bool) -> Tensor:
    delta = mode.needed(input)
    if input.dim() == 0:
        return delta
    axis = dim % input.dim()
    order = (input.double() + delta).argsort(axis + 1, descending)
    return _moved_to(input, delta, values, order, axis)


@rule("sort")
def sort(
    mode: DifferenceMode,
    base: Any,
    input: Tensor,
    dim: int = -1,
    descending: bool = False,
    stable: bool | None = None,
) -> Any:
    """All places."""
    return [_sorted(mode, base[0], input, dim, descending), None]


@rule("msort")
def msort(mode: DifferenceMode, base: Tensor, input: Tensor) -> Tensor:
    """Sorted along the first axis."""
    return _sorted(mode, base, input, 0, False)


@rule("topk")
def topk(
    mode: DifferenceMode,
    base: Any,
    input: Tensor,
    k: int,
    dim: int = -1,
    largest: bool = True,
    sorted: bool = True,
) -> Any:
    """The k elements afterwards: who stays keeps its place, which is the base's index too; others fill the rest.

    Routers use values and indices together. If two of the k changed places, their values would meet the wrong
    indices, which are those of the base.
    """
    delta, (values, indices) = mode.needed(input), base
    if input.dim() == 0:
        return [delta.reshape(mode.evaluations, *values.shape), None]
    axis = dim % input.dim()
    ranked = (input.double() + delta).topk(k, axis + 1, largest).indices
    before = torch.zeros_like(input, dtype=torch.bool).scatter(axis, indices, True).expand_as(delta)
    after = torch.zeros_like(before).scatter(axis + 1, ranked, True)
    indices = indices.expand_as(ranked)
    stays, is_new = after.gather(axis + 1, indices), ~before.gather(axis + 1, ranked)
    newcomers = ranked.gather(axis + 1, is_new.byte().argsort(dim=axis + 1, descending=True, stable=True))
    turn = ((~stays).cumsum(axis + 1) - 1).clamp(min=0)
    standing = torch.where(stays, indices, newcomers.gather(axis + 1, turn))
    return [_moved_to(input, delta, values, standing, axis), None]
