"""Bags of embeddings: the rows are looked up, then added, averaged or compared bag by bag, in pieces."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from zo_triton.difference import fallback
from zo_triton.difference.registry import register

if TYPE_CHECKING:
    from zo_triton.difference.mode import DifferenceMode


def _in_bags(
    input: Tensor,
    weight: Tensor,
    offsets: Tensor | None = None,
    max_norm: float | None = None,
    norm_type: float = 2,
    scale_grad_by_freq: bool = False,
    mode: str = "mean",
    sparse: bool = False,
    per_sample_weights: Tensor | None = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> Tensor | None:
    """[bags, features], or None for what is left to torch's own function.

    These are renormed tables, the maximum but over bags of one length, and arguments that torch refuses.

    Args:
        input: [bags, length] indices, or [n] of which ``offsets`` [bags] says where each bag begins.
        weight: [rows, features].
        offsets: As above; one more, the end of the last, if ``include_last_offset``.
        max_norm: Not taken.
        norm_type: Of ``max_norm``.
        scale_grad_by_freq: Of the gradient alone.
        mode: ``"sum"``, ``"mean"`` or ``"max"``.
        sparse: Of the gradient alone.
        per_sample_weights: As ``input``; a factor for each row.
        include_last_offset: As above.
        padding_idx: Rows that count nowhere.
    """
    of_one_length = input.dim() == 2
    largest = mode == "max" and (padding_idx is not None or not of_one_length)
    misused = of_one_length != (offsets is None) or (mode != "sum" and per_sample_weights is not None)
    if max_norm is not None or largest or misused or mode not in ("sum", "mean", "max"):
        return None
    rows = F.embedding(input, weight)
    if mode == "max":
        return rows.amax(1) if input.shape[1] else rows.sum(1)
    counted = torch.ones_like(input, dtype=torch.bool)
    if padding_idx is not None:
        counted = input != padding_idx % len(weight)
    if of_one_length:

        def total(each: Tensor) -> Tensor:
            return each.sum(1)
    else:
        assert offsets is not None  # as asked above
        bags = len(offsets) - include_last_offset
        place = torch.arange(len(input), device=input.device, dtype=offsets.dtype)
        bag = torch.bucketize(place, offsets[:bags], right=True) - 1
        if include_last_offset:
            counted = counted & (place < offsets[-1])

        def total(each: Tensor) -> Tensor:
            return each.new_zeros(bags, *each.shape[1:]).index_add(0, bag, each)

    kept = counted.to(input.dtype)
    factors = kept if per_sample_weights is None else kept * per_sample_weights
    sums = total(rows * factors.unsqueeze(-1))
    return sums / total(kept).clamp_min(1).unsqueeze(-1) if mode == "mean" else sums


def _handle(mode: DifferenceMode, function: Callable, args: tuple, kwargs: dict) -> Any:
    if not mode.carries(args, kwargs):
        return function(*args, **kwargs)
    with mode:
        found = _in_bags(*args, **kwargs)
    return fallback.handle(mode, function, args, kwargs) if found is None else found


register([F.embedding_bag], _handle)
