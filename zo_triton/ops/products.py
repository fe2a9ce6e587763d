"""Products of activations, both of which move: whole functions that an engine may have a quicker way to."""

from __future__ import annotations

from torch import Tensor

from zo_triton.ops.arguments import check_shape
from zo_triton.ops.engines import engine_for, load_engine


def product_difference(
    left: Tensor, left_change: Tensor, right: Tensor, right_change: Tensor
) -> Tensor | None:
    """ΔA·B + (A + ΔA)·ΔB, [P, *batch, rows, columns] float32; None where no engine has a way of its own.

    Args:
        left: A, [*batch, rows, inner].
        left_change: ΔA, [P, *batch, rows, inner].
        right: B, [*batch, inner, columns].
        right_change: ΔB, [P, *batch, inner, columns].
    """
    if left_change.device.type != "cpu" or engine_for(left_change.device) != "cpu":
        return None
    check_shape("left_change", left_change, (left_change.shape[0], *left.shape))
    check_shape("right_change", right_change, (left_change.shape[0], *right.shape))
    return load_engine("cpu").product_difference(left, left_change, right, right_change)
