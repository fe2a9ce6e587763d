"""Losses: exact differences, in float32 from here on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from zo_triton import ops
from zo_triton.difference.errors import UncoveredError
from zo_triton.difference.heads import loss_of_head
from zo_triton.difference.network import loss_through_mlp
from zo_triton.difference.registry import rule
from zo_triton.difference.rules.elementwise import operand, wide
from zo_triton.difference.rules.softmax import log_softmax_difference
from zo_triton.ops import engines

if TYPE_CHECKING:
    from zo_triton.difference.mode import DifferenceMode


def reduction_of(size_average: bool | None, reduce: bool | None, reduction: str) -> str:
    """The reduction that torch's two deprecated flags ask for, if they are given."""
    if size_average is None and reduce is None:
        return reduction
    if reduce is False:
        return "none"
    return "sum" if size_average is False else "mean"


def reduced(mode: DifferenceMode, base: Tensor, losses: Tensor, reduction: str, total: Any) -> Tensor:
    """[P, *] loss differences of single elements → the difference of what the reduction makes of them, ``base``."""
    if reduction == "none":
        return losses
    if mode.nodes is not None:
        # Of an empty batch there is no mean, and no step that could need it.
        mode.nodes.reduced.note(base, losses, 1 if reduction == "sum" or losses.numel() == 0 else 1 / total)
    rows = losses if losses.dim() == 2 else losses.reshape(losses.shape[0], -1)
    if reduction == "sum":
        return rows.sum(1)
    return rows.mean(1) if type(total) is int and total == rows.shape[1] else rows.sum(1) / total


def residual_of(mode: DifferenceMode, input: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Input − target and its difference [P, *]; both may carry one. The result is of the loss level."""
    residual = wide(input - target)
    moved, aimed = operand(mode, residual, input), operand(mode, residual, target)
    change = moved if aimed is None else -aimed if moved is None else moved - aimed
    if change is None:
        raise UncoveredError
    mode.wide = True
    return residual, change.expand(mode.evaluations, *residual.shape)


@rule("cross_entropy")
def cross_entropy(
    mode: DifferenceMode,
    base: Tensor,
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Any:
    """log1p(Σ p·expm1(Δ)) − Δ_y for each sample, then the reduction."""
    if mode.carries((target, weight)):
        return NotImplemented
    mode.wide = True
    reduction = reduction_of(size_average, reduce, reduction)
    plain = (
        input.dim() == 2 and not target.is_floating_point() and not (weight is not None and label_smoothing)
    )
    if plain:
        chosen, factors = _labels(target, weight, ignore_index)
        losses = loss_through_mlp(mode, input, chosen, label_smoothing)
        if losses is None:
            losses = loss_of_head(mode, input, chosen, label_smoothing, factors)
        if losses is not None:
            return _weighted(mode, base, losses, factors, target, reduction)
    delta = mode.needed(input)
    if target.is_floating_point():
        return _soft_cross_entropy(mode, base, input, delta, target, weight, reduction, label_smoothing)
    logits, rows, labels = _as_rows(input, delta, target)
    if weight is not None and label_smoothing:
        change = log_softmax_difference(logits, rows, -1)
        kept = (labels != ignore_index).float()
        chosen = labels.clamp(min=0)
        share = torch.nn.functional.one_hot(chosen, logits.shape[1]) * (1 - label_smoothing)
        losses = -((share + label_smoothing / logits.shape[1]) * weight * change).sum(-1) * kept
        return reduced(mode, base, losses.view(-1, *target.shape), reduction, (weight[chosen] * kept).sum())
    chosen, factors = _labels(labels, weight, ignore_index)
    losses = ops.cross_entropy_difference(logits, rows, chosen, label_smoothing)
    return _weighted(mode, base, losses, factors, target, reduction)


def _labels(labels: Tensor, weight: Tensor | None, ignore_index: int) -> tuple[Tensor, Tensor | None]:
    """Labels that all name a class, and each sample's factor; None where every factor is 1."""
    labels = labels.long()  # as indices, bytes would be a mask
    ignored = labels == ignore_index
    if engines.any_set(ignored):
        labels = labels.masked_fill(ignored, 0)
        return labels, (~ignored).float() if weight is None else weight[labels] * ~ignored
    return labels, None if weight is None else weight[labels]


def _weighted(
    mode: DifferenceMode, base: Tensor, losses: Tensor, factors: Tensor | None, target: Tensor, reduction: str
) -> Tensor:
    """[P, N] loss differences, times each sample's factor and reduced."""
    total: Any = target.numel()
    if factors is not None:
        losses, total = losses * factors, factors.sum()
    if target.dim() != 1:
        losses = losses.view(-1, *target.shape)
    return reduced(mode, base, losses, reduction, total)


def _as_rows(input: Tensor, delta: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """[N, C, *], [C] or [N, C] logits → [M, C], with their difference [P, M, C] and the targets [M]."""
    logits = input if input.dtype == torch.float32 else input.float()
    if input.dim() == 2:
        return logits, delta, target.long()
    if input.dim() == 1:
        return logits.unsqueeze(0), delta.unsqueeze(1), target.long().reshape(1)
    classes = input.shape[1]
    return (
        logits.movedim(1, -1).reshape(-1, classes),
        delta.movedim(2, -1).reshape(delta.shape[0], -1, classes),
        target.long().reshape(-1),
    )


def _soft_cross_entropy(
    mode: DifferenceMode,
    base: Tensor,
    input: Tensor,
    delta: Tensor,
    target: Tensor,
    weight: Tensor | None,
    reduction: str,
    label_smoothing: float,
) -> Tensor:
    """−Σ_c w_c·t_c·Δlog p_c for targets that are probabilities."""
    axis = -1 if input.dim() == 1 else 1 - input.dim()
    classes = input.shape[axis]
    shares = target * (1 - label_smoothing) + label_smoothing / classes
    if weight is not None:
        shares = shares * weight.view(-1, *[1] * (-axis - 1))
    losses = -(shares * log_softmax_difference(input, delta, axis)).sum(axis)
    return reduced(mode, base, losses, reduction, max(1, input.numel() // classes))


@rule("nll_loss")
def nll_loss(
    mode: DifferenceMode,
    base: Tensor,
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Any:
    """−w_y·Δ_y, linear in the log-probabilities."""
    if mode.carries((target, weight)):
        return NotImplemented
    delta = mode.needed(input)
    mode.wide = True
    _, rows, labels = _as_rows(input, delta, target)
    kept = labels != ignore_index
    chosen = labels.masked_fill(~kept, 0)
    factors = kept.float() if weight is None else weight[chosen] * kept
    picked = rows.gather(2, chosen.view(1, -1, 1).expand(rows.shape[0], -1, 1)).squeeze(2)
    losses = -(picked.float() * factors).view(-1, *target.shape)
    return reduced(mode, base, losses, reduction_of(size_average, reduce, reduction), factors.sum())


@rule("mse_loss")
def mse_loss(
    mode: DifferenceMode,
    base: Tensor,
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    weight: Tensor | None = None,
) -> Any:
    """Δ(2r + Δ) with r the base residual and Δ its difference; both arguments may carry one."""
    if weight is not None:
        return NotImplemented
    reduction = reduction_of(size_average, reduce, reduction)
    if (
        reduction != "none"
        and input.shape == target.shape
        and target.is_floating_point()
        and not mode.carries((target,))
    ):
        losses = loss_through_mlp(mode, input, target.float())
        if losses is not None:
            mode.wide = True
            return reduced(mode, base, losses, reduction, input.numel())
    residual, change = residual_of(mode, input, target)
    return reduced(mode, base, change * (2 * residual + change), reduction, residual.numel())
