"""Bags of embeddings: the rows are looked up, then added, averaged or compared bag by bag, in pieces."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from zo_triton.difference.registry import register
from zo_triton.difference.rules.composed import under_the_mode
from zo_triton.difference.rules.shape import refuse_max_norm

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


_in_pieces = under_the_mode(_in_bags, True)


def embedding_bag(mode: DifferenceMode, function: Callable, args: tuple, kwargs: dict) -> Any:
    """``F.embedding_bag``."""
    if mode.carries(args, kwargs):
        _check_offsets(*args, **kwargs)
        if kwargs.get("max_norm", args[3] if len(args) > 3 else None) is not None and mode.carries(
            (*args[:2], kwargs.get("weight"))
        ):
            refuse_max_norm("embedding_bag")
    return _in_pieces(mode, function, args, kwargs)


def _check_offsets(
    input: Tensor,
    weight: Tensor,
    offsets: Tensor | None = None,
    include_last_offset: bool = False,
    **others: Any,
) -> None:
    """Refuses offsets of which torch makes one thing in one of its ways and another in others.

    Not those on a GPU, which the host would have to wait for.

    Raises:
        ValueError: They descend, there are none, or they end before the indices do.
    """
    if offsets is None:
        return
    if offsets.numel() == 0:
        raise ValueError(
            "embedding_bag got no offsets, so there is no bag: torch may read memory that is not the table's then; "
            "leave empty batches out, or pass [0] for one bag."
        )
    if offsets.device.type != "cpu":
        return
    if bool((offsets[1:] < offsets[:-1]).any()):
        raise ValueError(
            f"embedding_bag got offsets that descend, {offsets.tolist()[:16]}: torch reads memory that is not the "
            "table's then; bags lie one behind the other, and an empty one begins where the next one does."
        )
    end, indices = int(offsets[-1]), (weight if input.is_floating_point() else input).numel()
    if include_last_offset and end < indices:
        raise ValueError(
            f"embedding_bag got offsets that end at {end}, but {indices} indices: torch counts the rest into the "
            f"last bag in float64 and means, and nowhere in float32 sums; pass input[:{end}]."
        )


register([F.embedding_bag], embedding_bag)
