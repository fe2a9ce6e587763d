"""Losses with margins, and Poisson's, in pieces: ranking, hinge, triplet, multi-class margins."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from zo_triton.difference.registry import rule
from zo_triton.difference.rules.composed import in_pieces
from zo_triton.difference.rules.elementwise import wide
from zo_triton.difference.rules.losses import reduced, reduction_of

if TYPE_CHECKING:
    from zo_triton.difference.mode import DifferenceMode

Flag = bool | None


def _reduced(losses: Tensor, size_average: Flag, reduce: Flag, reduction: str) -> Tensor:
    kind = reduction_of(size_average, reduce, reduction)
    return losses if kind == "none" else losses.sum() if kind == "sum" else losses.mean()


def _margin_ranking_loss(
    input1: Tensor,
    input2: Tensor,
    target: Tensor,
    margin: float = 0.0,
    size_average: Flag = None,
    reduce: Flag = None,
    reduction: str = "mean",
) -> Tensor:
    return _reduced((margin - target * (input1 - input2)).clamp_min(0), size_average, reduce, reduction)


@rule("hinge_embedding_loss", owner=F)
def hinge_embedding_loss(
    mode: DifferenceMode,
    base: Tensor,
    input: Tensor,
    target: Tensor,
    margin: float = 1.0,
    size_average: Flag = None,
    reduce: Flag = None,
    reduction: str = "mean",
) -> Any:
    """Each target other than 1 counts the hinge, each other than −1 the input itself; targets that move jump."""
    if mode.carries((target,)):
        return NotImplemented
    sizes = torch.broadcast_shapes(input.shape, target.shape)
    delta = mode.align(mode.needed(input), len(sizes)).expand(mode.evaluations, *sizes)
    gap = margin - wide(input)
    hinge = torch.where(gap > 0, torch.maximum(-delta, -gap), (gap - delta).clamp_min(0))
    losses = torch.where(target != 1, hinge, 0.0) + torch.where(target != -1, delta, 0.0)
    mode.wide = True
    return reduced(mode, base, losses, reduction_of(size_average, reduce, reduction), losses[0].numel())


def _soft_margin_loss(
    input: Tensor, target: Tensor, size_average: Flag = None, reduce: Flag = None, reduction: str = "mean"
) -> Tensor:
    return _reduced(-F.logsigmoid(target * input), size_average, reduce, reduction)


def _poisson_nll_loss(
    input: Tensor,
    target: Tensor,
    log_input: bool = True,
    full: bool = False,
    size_average: Flag = None,
    eps: float = 1e-8,
    reduce: Flag = None,
    reduction: str = "mean",
) -> Tensor:
    """``full`` adds Stirling's term where the target is above 1."""
    losses = input.exp() - target * input if log_input else input - target * (input + eps).log()
    if full:
        counts, is_above = target.clamp_min(1), (target - 1).ceil().clamp(0, 1)  # it may cross 1
        stirling = counts * counts.log() - counts + 0.5 * (2 * torch.pi * counts).log()
        losses = losses + (is_above * stirling).to(losses.dtype)
    return _reduced(losses, size_average, reduce, reduction)


def _triplet_margin_loss(
    anchor: Tensor,
    positive: Tensor,
    negative: Tensor,
    margin: float = 1.0,
    p: float = 2,
    eps: float = 1e-6,
    swap: bool = False,
    size_average: Flag = None,
    reduce: Flag = None,
    reduction: str = "mean",
) -> Tensor:
    near = F.pairwise_distance(anchor, positive, p, eps)
    far = F.pairwise_distance(anchor, negative, p, eps)
    if swap:
        far = torch.minimum(far, F.pairwise_distance(positive, negative, p, eps))
    return _reduced((margin + near - far).clamp_min(0), size_average, reduce, reduction)


def _multi_margin_loss(
    input: Tensor,
    target: Tensor,
    p: int = 1,
    margin: float = 1.0,
    weight: Tensor | None = None,
    size_average: Flag = None,
    reduce: Flag = None,
    reduction: str = "mean",
) -> Tensor:
    """The mean over classes of how far each comes within the margin of the right one, which counts 0."""
    scores, labels = (input.reshape(1, -1), target.reshape(1)) if input.dim() < 2 else (input, target)
    inside = (margin - scores.gather(1, labels[:, None]) + scores).clamp_min(0)
    inside = inside.masked_fill(F.one_hot(labels, scores.shape[1]).bool(), 0.0)
    losses = (inside if p == 1 else inside * inside).mean(1)
    losses = losses if weight is None else losses * weight[labels]
    return _reduced(losses.reshape(target.shape), size_average, reduce, reduction)


in_pieces([F.margin_ranking_loss], _margin_ranking_loss)
in_pieces([F.soft_margin_loss], _soft_margin_loss)
in_pieces([F.poisson_nll_loss], _poisson_nll_loss)
in_pieces([F.triplet_margin_loss], _triplet_margin_loss)
in_pieces([F.multi_margin_loss], _multi_margin_loss)
