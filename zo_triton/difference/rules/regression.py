"""Losses that compare elements: absolute, Huber, binary cross-entropy, Kullback-Leibler; float32 from here on."""

from __future__ import annotations

from functools import wraps
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from zo_triton.difference.registry import handler_of, register, rule
from zo_triton.difference.rules.composed import left_out, without_question
from zo_triton.difference.rules.elementwise import absolute_difference, needed, softplus_difference, wide
from zo_triton.difference.rules.losses import reduced, reduction_of, residual_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from zo_triton.difference.mode import DifferenceMode

SMALLEST_SHARE, LEAST_LOG = 1e-30, -100.0
"""Below the one, log1p(δ/p) loses its meaning; the other is where torch stops the logarithm."""


def huber_difference(residual: Tensor, change: Tensor, bound: float) -> Tensor:
    """Δ of c·(r − c/2) with c = clamp(r, −bound, bound), which is Huber's loss."""
    kept = residual.clamp(-bound, bound)
    moved = torch.minimum(torch.maximum(change + (residual - kept), -bound - kept), bound - kept)
    return moved * (residual - kept / 2) + (kept + moved) * (change - moved / 2)


def l1_loss(
    mode: DifferenceMode,
    base: Tensor,
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    **_: Any,
) -> Any:
    """Δ|r|, without a weight."""
    residual, change = residual_of(mode, input, target)
    losses = absolute_difference(residual, change)
    return reduced(mode, base, losses, reduction_of(size_average, reduce, reduction), residual.numel())


_unweighted, _in_pieces = handler_of(l1_loss), without_question(F.l1_loss)


@wraps(l1_loss)
def _handle_l1_loss(mode: DifferenceMode, function: Callable, args: tuple, kwargs: dict) -> Any:
    """With a weight in pieces, whether torch hands that to the mode or forgets it."""
    weight = kwargs.get("weight")
    weight = left_out(F.l1_loss, "weight") if weight is None else weight
    if weight is None:
        return _unweighted(mode, function, args, kwargs)
    with mode:
        return _in_pieces(*args, **{**kwargs, "weight": weight})


register([F.l1_loss], _handle_l1_loss)


@rule("smooth_l1_loss")
def smooth_l1_loss(
    mode: DifferenceMode,
    base: Tensor,
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    beta: float = 1.0,
) -> Any:
    """Huber's loss over its bound; the absolute one where that is zero."""
    if beta == 0:
        return l1_loss(mode, base, input, target, size_average, reduce, reduction)
    residual, change = residual_of(mode, input, target)
    losses = huber_difference(residual, change, beta) / beta
    return reduced(mode, base, losses, reduction_of(size_average, reduce, reduction), residual.numel())


@rule("huber_loss")
def huber_loss(
    mode: DifferenceMode,
    base: Tensor,
    input: Tensor,
    target: Tensor,
    reduction: str = "mean",
    delta: float = 1.0,
    weight: Tensor | None = None,
) -> Any:
    """Squared near zero, linear beyond ``delta``."""
    if weight is not None:
        return NotImplemented
    residual, change = residual_of(mode, input, target)
    return reduced(mode, base, huber_difference(residual, change, delta), reduction, residual.numel())


def _own(mode: DifferenceMode, input: Tensor) -> Tensor:
    """The difference of the only argument that carries one; what is made of it is of the loss level."""
    delta = needed(mode, input, input)
    mode.wide = True
    return delta


@rule("binary_cross_entropy_with_logits", owner=torch.nn.functional)
def binary_cross_entropy_with_logits(
    mode: DifferenceMode,
    base: Tensor,
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    pos_weight: Tensor | None = None,
) -> Any:
    """(1−y)·δ + (1 + (w−1)·y)·Δlog(1 + e^−x)."""
    if mode.carries((target, weight, pos_weight)):
        return NotImplemented
    delta = _own(mode, input)
    share: Any = 1 if pos_weight is None else 1 + (pos_weight - 1) * target
    losses = (1 - target) * delta + share * softplus_difference(-wide(input), -delta)
    losses = losses if weight is None else losses * weight
    return reduced(mode, base, losses, reduction_of(size_average, reduce, reduction), input.numel())


@rule("binary_cross_entropy", owner=torch.nn.functional)
def binary_cross_entropy(
    mode: DifferenceMode,
    base: Tensor,
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Any:
    """−y·Δlog p − (1−y)·Δlog(1−p)."""
    if mode.carries((target, weight)):
        return NotImplemented
    delta, share = _own(mode, input), wide(input)
    losses = -(target * _log_difference(share, delta) + (1 - target) * _log_difference(1 - share, -delta))
    losses = losses if weight is None else losses * weight
    return reduced(mode, base, losses, reduction_of(size_average, reduce, reduction), input.numel())


def _log_difference(share: Tensor, delta: Tensor) -> Tensor:
    """Δ max(log p, −100)."""
    moved = share + delta
    regular = (share > SMALLEST_SHARE) & (moved > SMALLEST_SHARE)
    stopped = moved.clamp(min=0).log().clamp(min=LEAST_LOG) - share.log().clamp(min=LEAST_LOG)
    return torch.where(regular, torch.log1p(delta / share), stopped)


@rule("kl_div", owner=torch.nn.functional)
def kl_div(
    mode: DifferenceMode,
    base: Tensor,
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    log_target: bool = False,
) -> Any:
    """Linear in the log-probabilities: −p·δ."""
    if mode.carries((target,)) or input.shape != target.shape:
        return NotImplemented
    delta = _own(mode, input)
    losses = -(target.exp() if log_target else target) * delta
    if reduction == "batchmean":
        return reduced(mode, base, losses, "mean", input.shape[0] if input.dim() else 1)
    return reduced(mode, base, losses, reduction_of(size_average, reduce, reduction), input.numel())
