"""Bags of embeddings: the rows are looked up, then added, averaged or compared bag by bag, in pieces."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from zo_triton.difference.rules.composed import in_pieces


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
) -> Any:
    """[bags, features], or ``NotImplemented`` for renormed tables and the maximum but over bags of one length.

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
    if input.is_floating_point():  # the order of old
        input, weight = weight, input
    of_one_length = input.dim() == 2
    if max_norm is not None or (mode == "max" and (padding_idx is not None or not of_one_length)):
        return NotImplemented
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
        assert offsets is not None  # or torch has refused it
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


in_pieces([F.embedding_bag], _in_bags)
