"""Sorted values: sort, topk, median, quantile and their like, by whoever stands in a place after the perturbation.

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


def _of_rank(mode: DifferenceMode, base: Tensor, input: Tensor, rank: int, dim: int, keepdim: bool) -> Tensor:
    """What the element of a rank, counted from 0, moves by; not a number where the base is none."""
    if input.dim() == 0:
        return mode.needed(input)
    change = _sorted(mode, input.sort(dim).values, input, dim, False)
    axis = dim % input.dim() + 1
    found = change.narrow(axis, rank, 1) if keepdim else change.select(axis, rank)
    return found.masked_fill(base.isnan(), torch.nan)


@rule("kthvalue")
def kthvalue(
    mode: DifferenceMode, base: Any, input: Tensor, k: int, dim: int = -1, keepdim: bool = False
) -> Any:
    """The k-th smallest."""
    return [_of_rank(mode, base[0], input, k - 1, dim, keepdim), None]


@rule("median")
def median(
    mode: DifferenceMode, base: Any, input: Tensor, dim: int | None = None, keepdim: bool = False
) -> Any:
    """The lower one of the two in the middle."""
    if dim is None:
        flat = mode.needed(input).reshape(mode.evaluations, -1)
        order = (input.double().flatten() + flat).argsort(1)[:, (input.numel() - 1) // 2, None]
        found = (input.flatten().expand_as(flat).gather(1, order) - base) + flat.gather(1, order)
        return found.squeeze(1).masked_fill(base.isnan(), torch.nan)
    size = input.shape[dim] if input.dim() else 1
    return [_of_rank(mode, base[0], input, (size - 1) // 2, dim, keepdim), None]


@rule("quantile")
def quantile(
    mode: DifferenceMode,
    base: Tensor,
    input: Tensor,
    q: Any,
    dim: int | None = None,
    keepdim: bool = False,
    *,
    interpolation: str = "linear",
) -> Any:
    """Between two neighbours in the order; one quantile, or several along the first axis."""
    if interpolation != "linear" or mode.carries((q,)) or (dim is None and keepdim):
        return NotImplemented
    delta = mode.needed(input)
    if dim is None:
        input, delta, dim = input.flatten(), delta.reshape(mode.evaluations, -1), 0
    if input.dim() == 0:
        input, delta, keepdim = input[None], delta[:, None], False
    axis = dim % input.dim()
    order = (input.double() + delta).argsort(axis + 1)
    change = _moved_to(input, delta, input.sort(axis).values, order, axis).movedim(axis + 1, 0)
    shares = torch.as_tensor(q, dtype=input.dtype, device=input.device)
    place = shares.reshape(-1) * (input.shape[axis] - 1)
    lower, upper = change[place.floor().long()], change[place.ceil().long()]
    found = torch.lerp(lower, upper, place.frac().to(change.dtype).view(-1, *[1] * (change.dim() - 1)))
    found = found.movedim(1, 0)
    if keepdim:
        found = found.unsqueeze(axis + 2)
    found = found if shares.dim() else found.squeeze(1)
    return found.masked_fill(base.isnan(), torch.nan)
