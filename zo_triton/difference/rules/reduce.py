"""Sums and means. Their results are of the loss level: the difference is float32 from there on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from zo_triton.difference.registry import rule

if TYPE_CHECKING:
    from zo_triton.difference.mode import DifferenceMode


def axes_of(dim: Any, dimensions: int) -> list[int]:
    """The reduced axes, counted from the end; all of them for None or an empty list."""
    if dim is None or (not isinstance(dim, int) and len(dim) == 0):
        return list(range(-dimensions, 0))
    listed = (dim,) if isinstance(dim, int) else dim
    return [axis - dimensions if axis >= 0 else axis for axis in listed]


def _total(
    mode: DifferenceMode,
    base: Tensor,
    input: Tensor,
    dim: Any = None,
    keepdim: bool = False,
    *,
    dtype: Any = None,
    share: float = 1,
) -> Any:
    """ΣΔ over the axes that the arguments of ``sum`` and ``mean`` name; each counts ``share`` in the result."""
    delta = mode.needed(input)
    mode.wide = True
    if mode.nodes is not None and base.dim() == 0:
        mode.nodes.reduced.note(base, delta, share)
    if input.dim() == 0:
        return delta.float()
    return delta.sum(axes_of(dim, input.dim()), keepdim=keepdim, dtype=torch.float32)


@rule("sum", chain=True)
def sum_(mode: DifferenceMode, base: Tensor, input: Tensor, *args: Any, **kwargs: Any) -> Any:
    """ΣΔ."""
    return _total(mode, base, input, *args, **kwargs)


@rule("mean", chain=True)
def mean(mode: DifferenceMode, base: Tensor, input: Tensor, *args: Any, **kwargs: Any) -> Any:
    """ΣΔ/n."""
    total = _total(mode, base, input, *args, share=1 / max(1, input.numel()), **kwargs)
    if total is NotImplemented or base.numel() == 0:  # of no elements there is nothing to divide
        return total
    return total / (input.numel() / base.numel())


@rule("cumsum")
def cumsum(mode: DifferenceMode, base: Tensor, input: Tensor, dim: int, *, dtype: Any = None) -> Tensor:
    """Running sums of the differences."""
    delta = mode.needed(input)
    return delta if input.dim() == 0 else delta.cumsum(dim + 1 if dim >= 0 else dim, dtype=torch.float32)
