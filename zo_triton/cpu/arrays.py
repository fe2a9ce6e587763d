"""Between torch and the kernels: tensors as arrays, and the matrices a field draws for a tensor."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from zo_triton.cpu.field import code_of, fill_matrices, fill_matrix, fill_rows, key_of
from zo_triton.directions import PART_LEFT, PART_RIGHT, PART_WHOLE, Directions, matrix_shape, tensor_word


def as_array(tensor: Tensor) -> np.ndarray:
    """The tensor's memory as NumPy sees it; bfloat16 as uint16."""
    seen = tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor
    return (seen.detach() if seen.requires_grad else seen).numpy()


def steps_of(signed_eps: Tensor) -> np.ndarray:
    """The evaluations' steps sε as kernels read them: float32 [P] in one piece, however they lie."""
    return as_array(signed_eps.float().contiguous())


def draw(
    directions: Directions,
    index: int,
    tensor_id: int,
    part: int,
    shape: tuple[int, int],
    dtype: torch.dtype,
    rows: Tensor | None = None,
) -> Tensor:
    """One matrix of the field, [rows, cols] in ``dtype`` (float32 or bfloat16); ``index`` is absolute.

    Its first rows, or those that ``rows`` lists, int64 [shape[0]].
    """
    out = torch.empty(shape, dtype=dtype, device="cpu")
    arguments = tensor_word(tensor_id, part), index, key_of(directions), code_of(directions)
    if rows is None:
        fill_matrix(as_array(out), 0, *arguments)
    else:
        fill_rows(as_array(out), rows.contiguous().numpy(), *arguments)
    return out


def draw_factors(
    directions: Directions,
    tensor_id: int,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    listed: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """All K pairs of low-rank factors in float32: A [K, rows, r], divided by √r, and B [K, cols, r].

    A is of the tensor's first rows, or of those ``listed``, int64 [shape[0]].
    """
    rows, cols = matrix_shape(shape)
    rank = directions.rank or 1
    if listed is None:
        left = draw_several(directions, tensor_id, PART_LEFT, (rows, rank), dtype)
    else:
        indices = range(directions.first, directions.first + directions.num)
        each = [draw(directions, k, tensor_id, PART_LEFT, (rows, rank), dtype, listed) for k in indices]
        left = torch.stack(each).float()
    return left / rank**0.5, draw_several(directions, tensor_id, PART_RIGHT, (cols, rank), dtype)


def draw_several(
    directions: Directions,
    tensor_id: int,
    part: int,
    shape: tuple[int, int],
    dtype: torch.dtype,
    out: Tensor | None = None,
) -> Tensor:
    """All K matrices of the field as float32 [K, rows, cols], for small ones; in bfloat16 rounded to it.

    They are written to the memory of ``out`` if it is given, contiguous float32 of as many elements.
    """
    if out is None:
        out = torch.empty(directions.num, *shape, dtype=torch.float32, device="cpu")
    fill_matrices(
        out.numpy().reshape(directions.num, *shape), tensor_word(tensor_id, part), directions.first,
        key_of(directions), code_of(directions), dtype == torch.bfloat16,
    )  # fmt: skip
    return out


def draw_whole(
    directions: Directions,
    index: int,
    tensor_id: int,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    rows: Tensor | None = None,
) -> Tensor:
    """The tensor's full-rank matrix of one direction: its first rows, or those listed, int64 [shape[0]]."""
    return draw(directions, index, tensor_id, PART_WHOLE, matrix_shape(shape), dtype, rows)
