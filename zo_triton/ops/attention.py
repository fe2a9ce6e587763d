"""Softmax and attention: whole functions whose differences an engine may have a quicker way to."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from zo_triton.ops.arguments import check_shape
from zo_triton.ops.engines import engine_for, load_engine


def softmax_difference(
    shares: Tensor, scores: Tensor, change: Tensor, logarithm: bool = False
) -> Tensor | None:
    """Δ softmax or Δ log_softmax along the last axis, [P, *shape] float32; None where no engine has it.

    Args:
        shares: softmax(scores), [*shape].
        scores: [*shape].
        change: δ, [P, *shape].
        logarithm: Which of the two.
    """
    if change.device.type != "cpu" or engine_for(change.device) != "cpu":
        return None
    check_shape("shares", shares, scores.shape)
    check_shape("change", change, (change.shape[0], *scores.shape))
    return load_engine("cpu").softmax_difference(shares, scores, change, logarithm)


def attention_difference(
    output: Tensor,
    values: Sequence[Tensor | None],
    changes: Sequence[Tensor | None],
    evaluations: int,
    scale: float,
    is_causal: bool,
    dtype: torch.dtype,
) -> Tensor | None:
    """Difference of scaled dot-product attention, [P, *output.shape] in ``dtype``; None where no engine has it.

    Args:
        output: The base's result, [*batch, L, Ev].
        values: query [*batch, L, E]; key [*batch, S, E] and value [*batch, S, Ev], whose heads may stand for
            several of the query's; mask or None, added to the scores or True where a query may look; factors on
            the shares (dropout) or None, both broadcasting to [*batch, L, S].
        changes: Differences of the first four, [P, *shape] or None, of which one is there.
        evaluations: P.
        scale: Factor on QKᵀ.
        is_causal: Hides from query i the keys after i.
        dtype: float32 or bfloat16.
    """
    there = [each for each in (*values, *changes) if each is not None]
    if output.device.type != "cpu" or engine_for(output.device) != "cpu":
        return None
    if any(each.dtype == torch.float64 for each in there):
        return None
    if any(each is None or each.dim() < 3 or not each.numel() for each in values[:3]):
        return None
    query, key, value = values[:3]
    assert query is not None
    assert key is not None
    assert value is not None
    matrices = query.shape[-2:], (key.shape[-2], query.shape[-1]), (key.shape[-2], output.shape[-1])
    for name, given, moving, shape in zip(("query", "key", "value"), values, changes, matrices, strict=False):
        for each in (given, moving):
            if each is not None and (
                each.shape[-2:] != shape or (each is moving and len(each) != evaluations)
            ):
                raise ValueError(
                    f"{name} and its {evaluations} changes must be {shape}, got {tuple(each.shape)}."
                )
    return load_engine("cpu").attention_difference(
        output, values, changes, evaluations, scale, is_causal, dtype
    )
