"""What an optimizer refuses beside what a measurement does."""

from __future__ import annotations

import torch
from torch import Tensor

from zo_triton.directions import Directions

LOW_PRECISION = ("master", "stochastic")
LARGEST_SLOPE = 2.0**60
LARGEST_LR = 2.0**40
"""A step along a slope this steep at this rate is far from float32's range: weights can't silently overflow."""


def check_low_precision(choice: str) -> None:
    """Refuses a way of updating low-precision weights that there is not.

    Raises:
        ValueError: ``choice`` is not in :data:`LOW_PRECISION`.
    """
    if choice not in LOW_PRECISION:
        raise ValueError(
            f"low_precision must be one of {LOW_PRECISION}, got {choice!r}: a float32 copy, or stochastic rounding."
        )


def check_coefficients(coefficients: Tensor, directions: Directions) -> None:
    """Refuses what can't be the coefficients of these directions.

    Raises:
        TypeError: They are no float32 tensor.
        ValueError: There are not K of them, or one is not finite.
    """
    if not isinstance(coefficients, Tensor) or coefficients.dtype != torch.float32:
        raise TypeError(
            f"coefficients must be a float32 tensor, got {getattr(coefficients, 'dtype', type(coefficients))}; "
            "call .float()."
        )
    if coefficients.shape != (directions.num,):
        raise ValueError(
            f"expected {directions.num} coefficients, one a direction, got shape {tuple(coefficients.shape)}."
        )
    if not bool(coefficients.isfinite().all()):
        raise ValueError("a coefficient is NaN or infinite; leave that direction out by a coefficient of 0.")
