"""Connectionist temporal classification: the forward recursion over alignments, with a difference beside each sum.

Graves et al. 2006: with blanks between and around the labels, log α_t(s) is log p_t(l_s) plus the logsumexp of what
can precede, α_{t−1} at s, s − 1 and, if l_s is neither a blank nor l_{s−2}, s − 2. Each logsumexp's difference is
log1p(Σ softmax·expm1(δ)), so nothing cancels on the way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from zo_triton.difference.registry import rule
from zo_triton.difference.rules.losses import reduced

if TYPE_CHECKING:
    from zo_triton.difference.mode import DifferenceMode

_REDUCTIONS = ("none", "mean", "sum")
"""By the numbers under which ``torch.ctc_loss`` knows them."""

_NEVER = -1e30
"""Logarithm of an impossible alignment's probability; infinite ones would make NaN of their differences."""


@rule("ctc_loss")
def ctc_loss(
    mode: DifferenceMode,
    base: Tensor,
    log_probs: Tensor,
    targets: Tensor,
    input_lengths: Any,
    target_lengths: Any,
    blank: int = 0,
    reduction: str | int = "mean",
    zero_infinity: bool = False,
) -> Tensor:
    """The forward recursion over alignments; a sample without one is left at its infinite (or zero) loss."""
    delta = mode.needed(log_probs).double()
    mode.wide = True
    values = log_probs.double()
    if values.dim() == 2:
        values, delta = values.unsqueeze(1), delta.unsqueeze(2)
    input_lengths, target_lengths = (
        torch.as_tensor(each, dtype=torch.int64, device=values.device).reshape(-1)
        for each in (input_lengths, target_lengths)
    )
    labels = _padded(targets, target_lengths, blank)
    impossible, losses = _changes(values, delta, labels, input_lengths, target_lengths, blank)
    if not zero_infinity:
        losses = losses.masked_fill(impossible, torch.nan)
    how = _REDUCTIONS[reduction] if isinstance(reduction, int) else reduction
    if how == "mean":
        losses = losses / target_lengths.clamp(min=1)
    return reduced(mode, base, losses, how, losses.shape[1]).float().view(mode.evaluations, *base.shape)


def _padded(targets: Tensor, target_lengths: Tensor, blank: int) -> Tensor:
    """Each sample's labels with blanks between and around them, [N, 2S + 1]."""
    if targets.dim() == 1:  # one sample behind the other
        targets = torch.nn.utils.rnn.pad_sequence(targets.split(target_lengths.tolist()), batch_first=True)
    spread = targets.new_full((len(targets), 2 * targets.shape[1] + 1), blank)
    spread[:, 1::2] = targets
    return spread.long()


def _changes(
    values: Tensor, delta: Tensor, labels: Tensor, input_lengths: Tensor, target_lengths: Tensor, blank: int
) -> tuple[Tensor, Tensor]:
    """Which samples have no alignment, [N], and the differences of all losses, [P, N]; zero for these."""
    valid = labels.ge(0) & (
        torch.arange(labels.shape[1], dtype=torch.int64, device=labels.device) <= 2 * target_lengths[:, None]
    )
    labels = labels.where(valid, blank)
    skips = F.pad((labels[:, 2:] != blank) & (labels[:, 2:] != labels[:, :-2]), (2, 0))
    here = values.gather(2, labels.expand(len(values), *labels.shape)).clamp_min(_NEVER)
    moves = delta.gather(3, labels.expand(*delta.shape[:2], *labels.shape))
    start = torch.arange(labels.shape[1], dtype=torch.int64, device=labels.device) < 2
    alpha = here[0].where(start & valid, _NEVER)
    change = moves[:, 0].where(start & valid, 0.0)
    for t in range(1, len(here)):
        before = torch.stack(
            [alpha, _shifted(alpha, 1, _NEVER), _shifted(alpha, 2, _NEVER).where(skips, _NEVER)], -1
        )
        beside = torch.stack([change, _shifted(change, 1, 0.0), _shifted(change, 2, 0.0)], -1)
        total, its_change = _log_sum(before, beside)
        runs = (t < input_lengths)[:, None]
        alpha = torch.where(runs, (total + here[t]).where(valid, _NEVER).clamp_min(_NEVER), alpha)
        change = torch.where(runs, its_change + moves[:, t], change)
    last = torch.stack([2 * target_lengths, (2 * target_lengths - 1).clamp(min=0)], 1)
    ends = alpha.gather(1, last)
    ends[:, 1] = ends[:, 1].where(target_lengths > 0, _NEVER)
    total, result = _log_sum(ends, change.gather(2, last.expand(len(change), *last.shape)))
    impossible = total < _NEVER / 2
    return impossible, -result.where(~impossible, 0.0)


def _shifted(x: Tensor, by: int, filling: float) -> Tensor:
    """What stands ``by`` places earlier."""
    return F.pad(x[..., : x.shape[-1] - by], (by, 0), value=filling)


def _log_sum(a: Tensor, delta: Tensor) -> tuple[Tensor, Tensor]:
    """Logsumexp along the last axis and its difference, taken from the largest term so that nothing overflows."""
    shares = torch.softmax(a, -1)
    most = delta.gather(-1, a.argmax(-1, keepdim=True).expand(*delta.shape[:-1], 1))
    change = most.squeeze(-1) + torch.log1p((shares * torch.expm1(delta - most)).sum(-1))
    return torch.logsumexp(a, -1), change
