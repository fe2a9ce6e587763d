"""What the theory takes in: arrays as finite float64, names and counts checked, errors that name the argument.

Everything above works in NumPy float64. Torch tensors of any dtype and device are accepted and copied to the
CPU; nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from zo_triton.directions import Directions

KERNELS = ("nzk", "update")
"""``nzk``: both gradients are estimates; ``update``: the kernel of the ordinary zeroth-order step."""

COUPLINGS = ("shared", "independent")
"""Whether the two estimates of the ``nzk`` kernel use the same random vectors."""


def as_matrix(value: Any, name: str) -> np.ndarray:
    """Converts an array, a nested list or a torch tensor to float64 [rows, columns].

    Args:
        value: What the caller passed.
        name: The argument's name, for the error.

    Returns:
        float64, C-contiguous, both sizes at least 1, all values finite.

    Raises:
        TypeError: It holds no real numbers.
        ValueError: It has another number of dimensions, no element, or a NaN or an infinity.
    """
    return _as_array(value, name, 2)


def as_vector(value: Any, name: str, size: int | None = None) -> np.ndarray:
    """Converts a value to float64 [size], like :func:`as_matrix`; ``size`` asks for that length.

    Raises:
        TypeError: It holds no real numbers.
        ValueError: As :func:`as_matrix`, or another length than ``size``.
    """
    vector = _as_array(value, name, 1)
    if size is not None and len(vector) != size:
        raise ValueError(f"{name} must have {size} elements, got {len(vector)}.")
    return vector


def as_square(value: Any, name: str, size: int | None = None) -> np.ndarray:
    """Converts a kernel to float64 [n, n], like :func:`as_matrix`; ``size`` asks for that n.

    Raises:
        TypeError: It holds no real numbers.
        ValueError: As :func:`as_matrix`, not square, or another n than ``size``.
    """
    matrix = _as_array(value, name, 2)
    rows, columns = matrix.shape
    if rows != columns or (size is not None and rows != size):
        wanted = "square" if size is None else f"[{size}, {size}]"
        raise ValueError(f"{name} must be {wanted}, got shape {matrix.shape}.")
    return matrix


def check_choice(value: object, name: str, known: Sequence[str]) -> None:
    """Refuses a name that is not in the list.

    Raises:
        ValueError: It is not; the error lists the known names.
    """
    if not isinstance(value, str) or value not in known:
        raise ValueError(f"unknown {name} {value!r}; choose one of {tuple(known)}.")


def check_count(value: object, name: str, least: int = 1) -> int:
    """Returns an integer of at least ``least``; NumPy's integers count as such.

    Raises:
        TypeError: It is no integer.
        ValueError: It is too small.
    """
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} must be an int, got {value!r} of type {type(value).__name__}.")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}.")
    return int(value)


def check_shapes(
    shapes: Sequence[Sequence[int]] | None, rank: int | None, size: int
) -> tuple[tuple[int, ...], ...]:
    """The shapes of the tensors that ``size`` columns belong to, in order; without any, one vector.

    Args:
        shapes: One shape a tensor, or None.
        rank: Of the directions' matrices; needs ``shapes``, since a vector has no factors.
        size: d, the number of columns.

    Returns:
        The shapes as tuples of ints.

    Raises:
        TypeError: A size is no integer.
        ValueError: The sizes don't sum to d, rank without shapes, or rank > min(rows, cols) of a matrix.
    """
    if rank is not None:
        check_count(rank, "rank")
        if shapes is None:
            raise ValueError(f"rank {rank} needs shapes, the tensors that the {size} columns belong to.")
    if shapes is None:
        return ((size,),)
    checked = tuple(tuple(check_count(n, "a size in shapes") for n in shape) for shape in shapes)
    total = sum(prod(shape) for shape in checked)
    if total != size:
        raise ValueError(f"the shapes {list(checked)} hold {total} elements, but there are {size} columns.")
    field = Directions(seed=0, step=0, num=1, distribution="gaussian", rank=rank)
    for position, shape in enumerate(checked):
        field.check_shape(f"tensor {position}", shape)
    return checked


def _as_array(value: Any, name: str, dimensions: int) -> np.ndarray:
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        # NumPy knows no bfloat16, and float64 holds every real dtype's values exactly.
        value = value.double().numpy() if not value.is_complex() else value.numpy()
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise ValueError(f"{name} must be rectangular: {error}") from error
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{name} must hold real numbers, got dtype {array.dtype}.")
    if array.ndim != dimensions:
        raise ValueError(f"{name} must have {dimensions} dimension(s), got shape {array.shape}.")
    if array.size == 0:
        raise ValueError(f"{name} is empty, with shape {array.shape}.")
    array = np.ascontiguousarray(array, dtype=np.float64)
    wrong = int(np.count_nonzero(~np.isfinite(array)))
    if wrong:
        raise ValueError(f"{name} has {wrong} value(s) that are NaN or infinite; clean the data first.")
    return array
