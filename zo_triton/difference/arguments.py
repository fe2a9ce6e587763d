"""What a measurement refuses before the closure runs."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

from zo_triton.directions import Directions

SMALLEST_EPS = 1e-30
"""Below it, ε times a small activation leaves the normal range of float32."""


def check_params(params: list[Tensor], directions: Directions) -> None:
    """Refuses what is no list of distinct floating-point tensors on one device, or no :class:`Directions`."""
    if not isinstance(directions, Directions):
        raise TypeError(
            f"directions must be a zo.Directions, got {directions!r} of type {type(directions).__name__}."
        )
    if not params:
        raise ValueError("params is empty; pass at least one trained parameter.")
    seen: dict[int, int] = {}
    for position, parameter in enumerate(params):
        name = f"parameter {position}"
        if not isinstance(parameter, Tensor):
            raise TypeError(f"{name} is no tensor but {parameter!r} of type {type(parameter).__name__}.")
        if not parameter.is_floating_point():
            raise TypeError(
                f"{name} has dtype {parameter.dtype}; only floating-point parameters can be perturbed."
            )
        if id(parameter) in seen:
            raise ValueError(
                f"{name} is the same tensor as parameter {seen[id(parameter)]}; list each one once."
            )
        if parameter.device != params[0].device:
            raise ValueError(
                f"{name} is on {parameter.device} but parameter 0 on {params[0].device}; move all to one "
                "device."
            )
        seen[id(parameter)] = position
    _check_shapes(directions.distribution, directions.rank, tuple(parameter.shape for parameter in params))


@lru_cache(maxsize=64)
def _check_shapes(distribution: str, rank: int | None, shapes: tuple[torch.Size, ...]) -> None:
    """Refuses shapes that the field can't address; remembered, since steps of small models are short."""
    field = Directions(0, 0, 1, distribution, rank=rank)
    for position, shape in enumerate(shapes):
        field.check_shape(f"parameter {position}", shape)


def check_settings(
    directions: Directions,
    eps: float,
    sides: int,
    compute_dtype: torch.dtype,
    chunk: int | None,
    scales: Tensor | None,
) -> None:
    """Refuses numbers out of range."""
    if isinstance(eps, bool) or not isinstance(eps, (int, float)):
        raise TypeError(f"eps must be a number, got {eps!r} of type {type(eps).__name__}.")
    if not (math.isfinite(eps) and eps > 0):
        raise ValueError(f"eps must be positive and finite, got {eps}.")
    if not SMALLEST_EPS <= eps <= 1 / SMALLEST_EPS:
        raise ValueError(
            f"eps {eps} is too {'small' if eps < 1 else 'large'} for float32; use one between "
            f"{SMALLEST_EPS} and {1 / SMALLEST_EPS}."
        )
    if sides not in (1, 2):
        raise ValueError(f"sides must be 1 (forward difference) or 2 (central difference), got {sides!r}.")
    if compute_dtype not in (torch.float32, torch.bfloat16):
        raise ValueError(f"compute_dtype must be torch.float32 or torch.bfloat16, got {compute_dtype}.")
    if chunk is not None and (isinstance(chunk, bool) or not isinstance(chunk, int) or chunk < 1):
        raise ValueError(f"chunk must be at least 1, or None for as many directions as fit, got {chunk!r}.")
    if scales is not None and tuple(scales.shape) != (directions.num,):
        raise ValueError(
            f"scales must have shape ({directions.num},), one a direction, got {tuple(scales.shape)}."
        )
