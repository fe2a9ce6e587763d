"""Products of activations, both of which move: whole functions that an engine may have a quicker way to."""

from __future__ import annotations

import torch
from torch import Tensor

from zo_triton.ops.arguments import check_shape
from zo_triton.ops.engines import engine_for, load_engine


def product_difference(
    left: Tensor,
    left_change: Tensor,
    right: Tensor,
    right_change: Tensor,
    dtype: torch.dtype = torch.float32,
) -> Tensor | None:
    """ΔA·B + (A + ΔA)·ΔB, [P, *batch, rows, columns]; None where no engine has a way of its own.

    The sums are float32.

    Args:
        left: A, [*batch, rows, inner] float32.
        left_change: ΔA, [P, *batch, rows, inner] float32 or bfloat16.
        right: B, [*batch, inner, columns] float32.
        right_change: ΔB, [P, *batch, inner, columns] float32 or bfloat16.
        dtype: What the sums are rounded to: float32 or bfloat16.
    """
    if left_change.device.type != "cpu" or engine_for(left_change.device) != "cpu":
        return None
    check_shape("left_change", left_change, (left_change.shape[0], *left.shape))
    check_shape("right_change", right_change, (left_change.shape[0], *right.shape))
    return load_engine("cpu").product_difference(left, left_change, right, right_change, dtype)
