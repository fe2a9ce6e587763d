"""What several launchers share: checks of the evaluations, strides, and the arguments that describe the field."""

from __future__ import annotations

import torch
from torch import Tensor

from zo_triton.directions import Directions, matrix_shape
from zo_triton.kernels.activation import check_activation
from zo_triton.kernels.field import (
    counter_arguments,
    drawn_by,
    operand_dtype,
    padded_rank,
    tile_sizes,
    word_arguments,
)
from zo_triton.kernels.launch import compute_dtype


def check_arguments(
    out: Tensor, base_output: Tensor | None, directions: Directions, signed_eps: Tensor, activation: str
) -> int:
    """The number of sides, once the arguments fit each other.

    Raises:
        ValueError: The activation is unknown or lacks its ``base_output``; P is not a multiple of K up to 2K.
    """
    check_activation(activation)
    if activation != "none" and base_output is None:
        raise ValueError(
            f"activation {activation!r} needs base_output, the unperturbed pre-activation, got None."
        )
    evaluations, sides = signed_eps.numel(), signed_eps.numel() // directions.num
    if sides not in (1, 2) or evaluations != sides * directions.num or out.shape[0] != evaluations:
        raise ValueError(
            f"signed_eps must name one or two evaluations for each of {directions.num} directions and out as "
            f"many, got {evaluations} and out with shape {tuple(out.shape)}."
        )
    return sides


def strides(letter: str, axes: str, tensor: Tensor) -> dict[str, int]:
    """A tensor's strides as kernel arguments ``stride_`` + letter + axis."""
    return {f"stride_{letter}{axis}": stride for axis, stride in zip(axes, tensor.stride(), strict=True)}


def field_constants(directions: Directions, rank: int) -> dict[str, object]:
    """What of the field is built into a kernel."""
    return {
        "DISTRIBUTION": drawn_by(directions),
        "ROUNDS": directions.rounds,
        "RANK": rank,
        "RANK_BLOCK": padded_rank(rank, directions.signs),
    }


def drawing_arguments(
    directions: Directions,
    tensor_id: int,
    shape: torch.Size,
    dtype: torch.dtype,
    tile: dict[str, int] | None,
) -> tuple[dict[str, int], dict[str, object]]:
    """For a kernel that draws a tensor's z in tiles: their sizes, and its arguments, sizes and options included.

    Args:
        directions: Names the K directions.
        tensor_id: The tensor's id.
        shape: Its shape.
        dtype: The compute dtype.
        tile: Tile sizes and launch options in place of :func:`zo_triton.kernels.field.tile_sizes`.

    Raises:
        TypeError: ``dtype`` is neither float32 nor bfloat16.
    """
    rank = (directions.rank or 0) if directions.is_low_rank(shape) else 0
    tile = tile or tile_sizes(matrix_shape(shape)[0], directions.signs, rank)
    return tile, {
        **counter_arguments(directions),
        **word_arguments(directions, tensor_id),
        **field_constants(directions, rank),
        "DTYPE": compute_dtype(operand_dtype(dtype, directions.signs) if rank else dtype),
        **tile,
    }
