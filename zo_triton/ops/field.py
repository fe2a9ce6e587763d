"""The perturbation field by itself: drawn, added up, measured, packed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from zo_triton._memory import empty
from zo_triton.directions import MANTISSA_BITS, MAX_BLOCKS, ROWS_PER_BLOCK, Directions, matrix_shape
from zo_triton.ops.arguments import check_shape
from zo_triton.ops.engines import engine_for, engine_on, is_replayable
from zo_triton.ops.registry import call

SPHERE_BLOCK = 16
"""Directions whose lengths the Triton engine takes in one launch a tensor."""


def sample(
    directions: Directions,
    tensor_id: int,
    shape: Sequence[int],
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    rows: Tensor | None = None,
) -> Tensor:
    """Materialises one tensor's share of every direction: for references, small tensors and curiosity.

    With ``sphere`` the tensor is taken for the whole parameter: each z_k has length √(number of elements).

    Args:
        directions: Names the K directions.
        tensor_id: Position of the tensor in the list of trained parameters.
        shape: Its shape.
        dtype: Of the result and of the field; bfloat16 gives the rounded values that bfloat16 training walks.
        device: Where to draw.
        rows: Of a tensor of two or more dimensions, the only ones to draw, int64 [R] in any order: those that a
            batch looks up in a large table. None draws all.

    Returns:
        [K, *shape], or [K, R, *shape[1:]]: bit for bit those rows of the whole.

    Raises:
        TypeError: ``rows`` is no int64 tensor, or ``dtype`` holds no fractions.
        ValueError: The field can't address the shape, the rank exceeds min(rows, cols), there are no such rows, or
            ``hadamard`` directions lack the tensor's columns (:meth:`Directions.over`).
    """
    if not dtype.is_floating_point:
        raise TypeError(f"dtype must be a floating-point type, got {dtype}; draw float32 and convert it.")
    directions.check_shape(f"tensor {tensor_id}", shape)
    directions.check_bound([tensor_id])
    if rows is not None:
        _check_rows(rows, shape)
    drawn = tuple(shape) if rows is None else (rows.numel(), *shape[1:])
    out = empty((directions.num, *drawn), dtype, device)
    call("sample", out.device, out, directions, tensor_id, dtype, rows)
    whole = torch.empty((), dtype=torch.float32, device=out.device).expand(tuple(shape))
    scales = direction_scales([whole], [tensor_id], directions, dtype)
    return out if scales is None else out * scales.to(dtype).view(-1, *[1] * len(shape))


def _check_rows(rows: Tensor, shape: Sequence[int]) -> None:
    if not isinstance(rows, Tensor) or rows.dtype != torch.int64:
        raise TypeError(f"rows must be an int64 tensor, got {getattr(rows, 'dtype', rows)!r}; call .long().")
    if len(shape) < 2 or rows.dim() != 1:
        raise ValueError(
            f"rows lists, in one dimension, rows of a tensor of at least two; got rows of shape "
            f"{tuple(rows.shape)} for a tensor of shape {tuple(shape)}."
        )
    if not is_replayable() and rows.numel() and not (int(rows.min()) >= 0 and int(rows.max()) < shape[0]):
        raise ValueError(
            f"rows must lie in [0, {shape[0]}), got {int(rows.min())} to {int(rows.max())}; count from the start."
        )


def accumulate(
    tensors: Sequence[Tensor],
    tensor_ids: Sequence[int],
    coefficients: Tensor,
    directions: Directions,
    dtype: torch.dtype = torch.float32,
) -> None:
    """``tensor += Σ_k coefficients[k]·z_k`` in place for each tensor, all K directions in one pass.

    Args:
        tensors: float32 or float64 tensors of one device.
        tensor_ids: Their positions in the list of trained parameters.
        coefficients: [K] float32; a per-direction scale (``sphere``) must already be in them.
        directions: Names the K directions.
        dtype: The compute dtype that the differences were measured in.

    Raises:
        ValueError: The coefficients are not [K], or ``hadamard`` directions lack the tensors' columns
            (:meth:`Directions.over`).
    """
    check_shape("coefficients", coefficients, (directions.num,))
    directions.check_bound(tensor_ids)
    call("accumulate", tensors[0].device, list(tensors), list(tensor_ids), coefficients, directions, dtype)


def stochastic_add(tensor: Tensor, update: Tensor, directions: Directions, tensor_id: int) -> None:
    """``tensor += update`` in place, rounded stochastically: each element's mean is the exact sum.

    Rounding up or down is decided by words of the field that no direction uses, named by seed, step, tensor and
    element: the same everywhere and in every repetition. A finite sum never becomes infinite: beyond the largest
    finite value it becomes that. NaN and infinities pass. An update below 2⁻³² of the weight's spacing is lost.

    Args:
        tensor: float16 or bfloat16.
        update: float32, of the same shape and device.
        directions: Supplies seed, step and rounds.
        tensor_id: Its position in the list of trained parameters.

    Raises:
        TypeError: The tensor is neither float16 nor bfloat16, or the update not float32.
        ValueError: The shapes differ, or the tensor has more than 2**34 elements.
    """
    if str(tensor.dtype).removeprefix("torch.") not in MANTISSA_BITS or update.dtype != torch.float32:
        raise TypeError(
            f"stochastic_add adds a float32 update to a float16 or bfloat16 tensor, got {update.dtype} and "
            f"{tensor.dtype}."
        )
    if tensor.shape != update.shape:
        raise ValueError(
            f"the update must have the tensor's shape {tuple(tensor.shape)}, got {tuple(update.shape)}."
        )
    if tensor.numel() > MAX_BLOCKS * ROWS_PER_BLOCK:
        raise ValueError(
            f"a tensor of {tensor.numel()} elements has more than 2**34, which the field can't round; split it."
        )
    call("stochastic_add", tensor.device, tensor, update, directions, tensor_id)


def gram(
    tensors: Sequence[Tensor],
    tensor_ids: Sequence[int],
    directions: Directions,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Inner products z_k·z_l over all the tensors without storing any z: [K, K] float64, unscaled."""
    directions.check_bound(tensor_ids)
    out = torch.empty(directions.num, directions.num, dtype=torch.float64, device=tensors[0].device)
    call("gram", out.device, out, list(tensors), list(tensor_ids), directions, dtype)
    return out


def direction_scales(
    tensors: Sequence[Tensor],
    tensor_ids: Sequence[int],
    directions: Directions,
    dtype: torch.dtype = torch.float32,
) -> Tensor | None:
    """The per-direction factor on ε: √d/|z_k| for ``sphere``, [K] float32; None where it is 1."""
    if directions.distribution != "sphere":
        return None
    size = sum(tensor.numel() for tensor in tensors)
    # The kernels draw as many directions together whether they are wanted or not; elsewhere a product is dearer.
    blocked = engine_for(tensors[0].device) == "triton" and directions.rank is None
    step = SPHERE_BLOCK if blocked else 1
    some = (directions[k : k + step] for k in range(0, directions.num, step))
    norms = [gram(tensors, tensor_ids, each, dtype).diagonal() for each in some]
    return (size / torch.cat(norms)).sqrt().float()


def stage(
    directions: Directions, tensor_id: int, shape: Sequence[int], device: torch.device | str = "cpu"
) -> Tensor:
    """Packed signs of one tensor for every direction: what the generator gives, written out and nothing else.

    Args:
        directions: Names the K directions; full-rank signs.
        tensor_id: Position of the tensor in the list of trained parameters.
        shape: Its shape, a matrix [rows, cols] to the field.
        device: Where to.

    Returns:
        int32 [K, 4·ceil(rows/4), ceil(cols/32)]; bit b of word c is column 32c + b, 1 for +1.

    Raises:
        ValueError: The distribution has no packed signs.
    """
    if not directions.signs or directions.rank is not None:
        raise ValueError(f"only full-rank 'rademacher' or 'hadamard' has packed signs, got {directions}.")
    directions.check_shape(f"tensor {tensor_id}", shape)
    directions.check_bound([tensor_id])
    device = torch.device(device)
    return engine_on(device).stage(directions, tensor_id, *matrix_shape(torch.Size(shape)), device)
