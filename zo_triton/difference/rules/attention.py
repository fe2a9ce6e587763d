"""Scaled dot-product attention: softmax(QKᵀ·scale + mask)·V, differences through all four.

The scores move by ΔS = (ΔQ·Kᵀ + (Q+ΔQ)·ΔKᵀ)·scale + Δmask, their softmax p by p·expm1(ΔS − Δlog Σe^S), the
result by Δp·V + (p+Δp)·ΔV. Dropout multiplies p and Δp by one mask.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from zo_triton import ops
from zo_triton.difference.registry import handler
from zo_triton.difference.rules.elementwise import wide
from zo_triton.difference.rules.linear import product
from zo_triton.difference.rules.softmax import ABSORBING, softmax_difference
from zo_triton.ops.engines import any_set

if TYPE_CHECKING:
    from zo_triton.difference.mode import DifferenceMode


@handler("scaled_dot_product_attention")
def attention_handler(mode: DifferenceMode, function: Callable, args: tuple, kwargs: dict) -> Any:
    """``F.scaled_dot_product_attention``."""
    if not mode.carries(args, kwargs):
        return function(*args, **kwargs)
    return _attention(mode, function, *args, **kwargs)


def _attention(
    mode: DifferenceMode,
    function: Callable,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    groups = query.shape[-3] // key.shape[-3] if enable_gqa else 1
    factor = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    if dropout_p == 0:
        kept = None
        base = mode.once(
            function, query, key, value, attn_mask, 0.0, is_causal, scale=scale, enable_gqa=enable_gqa
        )
    else:

        def dropped_out() -> tuple[Tensor, Tensor]:
            shares = _softmax(_scores(query, _repeated(key, groups), factor, attn_mask, is_causal))
            kept = F.dropout(torch.ones_like(shares), dropout_p)
            return kept, ((shares * kept) @ wide(_repeated(value, groups))).to(query.dtype)

        kept, base = mode.once(dropped_out)

    def compute(mode: DifferenceMode, base: Tensor, *_: Any, **__: Any) -> Any:
        if base.numel() == 0:
            mode.ignore(query, key, value, attn_mask)
            return torch.zeros(mode.evaluations, *base.shape, dtype=torch.float32, device=base.device)
        changes = [mode.difference(each) for each in (query, key, value, attn_mask)]
        if all(each is None for each in changes):
            return NotImplemented
        asking, mask, changes = _without_lost_rows(query, attn_mask, changes)
        moved = ops.attention_difference(
            base, (asking, key, value, mask, kept), changes, mode.evaluations, factor, is_causal, mode.level
        )
        return _by_scores(mode, base, asking, mask, changes) if moved is None else moved

    def _by_scores(
        mode: DifferenceMode, base: Tensor, query: Tensor, mask: Tensor | None, changes: list[Tensor | None]
    ) -> Tensor:
        keys, values = _repeated(key, groups), _repeated(value, groups)
        scores = _scores(query, keys, factor, mask, is_causal)
        mode.reserve(scores.numel())
        turned = _repeated(changes[1], groups)
        turned = None if turned is None else turned.mT
        moved = product(mode, scores, (query, changes[0]), (keys.mT, turned))
        moved = None if moved is None else moved.mul_(factor)
        shift = changes[3]
        if shift is not None:
            shift = mode.align(shift, scores.dim())
            moved = shift if moved is None else moved + shift
        shares, change = _softmax(scores), None
        if moved is not None:
            change = softmax_difference(shares, scores, moved, -1)
            change = change.masked_fill(scores == -math.inf, 0.0)
        if kept is not None:
            shares, change = shares * kept, None if change is None else change * kept
        result = product(mode, base, (shares, change), (values, _repeated(changes[2], groups)))
        assert result is not None
        return result

    options = {"scale": scale, "enable_gqa": enable_gqa}
    return mode.apply(compute, base, function, (query, key, value, attn_mask, dropout_p, is_causal), options)


def _without_lost_rows(
    query: Tensor, mask: Tensor | None, changes: list[Tensor | None]
) -> tuple[Tensor, Tensor | None, list[Tensor | None]]:
    """The query, the mask, and all differences, with zeros for a query whose scores a mask's numbers have absorbed.

    Such a query looks everywhere alike, whatever its scores are.
    """
    if mask is None or not mask.is_floating_point():
        return query, mask, changes
    lost = mask.amax(-1, keepdim=True) < -ABSORBING
    if not any_set(lost):
        return query, mask, changes
    of_query, of_key, of_value, of_mask = changes
    of_query, of_mask = (
        None if each is None else torch.where(lost, 0.0, each) for each in (of_query, of_mask)
    )
    mask = mask.masked_fill(lost & mask.isfinite(), 0.0)
    return torch.where(lost, 0.0, query), mask, [of_query, of_key, of_value, of_mask]


def _repeated(tensor: Any, groups: int) -> Any:
    """Each key or value head stands for ``groups`` query heads."""
    return tensor if groups == 1 or tensor is None else tensor.repeat_interleave(groups, -3)


def _scores(query: Tensor, key: Tensor, factor: float, attn_mask: Tensor | None, is_causal: bool) -> Tensor:
    """QKᵀ·factor + mask, −∞ where a query may not look."""
    scores = (wide(query) @ wide(key).mT) * factor
    if is_causal:
        allowed = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
        scores = scores.masked_fill(~allowed, -math.inf)
    if attn_mask is None:
        return scores
    if attn_mask.dtype == torch.bool:
        return scores.masked_fill(~attn_mask, -math.inf)
    return scores + attn_mask


def _softmax(scores: Tensor) -> Tensor:
    """Softmax along the last axis; zeros, as torch's, for a query that may look nowhere."""
    return torch.softmax(scores, -1).masked_fill((scores == -math.inf).all(-1, keepdim=True), 0.0)
