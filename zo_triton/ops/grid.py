"""Sums of signs without rounding: coefficients on a grid so coarse that float32 holds every partial sum.

A float32 sum depends on its order once it rounds. If all coefficients are multiples of one power of two s and
Σ|a_k| ≤ 2²⁴·s, every sum of ±a_k is an integer of at most 24 bits times s, which float32 holds: no order, tile,
chunk, thread, engine or number of ranks changes a bit. This is the reproducible summation of Demmel and Nguyen,
"Fast reproducible floating-point summation", ARITH 2013, for terms whose size is known beforehand.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import frexp

import numpy as np
import torch
from torch import Tensor

from zo_triton.directions import Directions
from zo_triton.ops.field import accumulate
from zo_triton.ops.registry import dispatcher_is_watched

_EXPONENT = 0x7FF << 52
"""Of a float64; a number with all other bits cleared is the largest power of two not above it."""

_LEAST_STEP = 2.0**-126
"""The smallest normal float32, so that hardware that flushes what is smaller changes nothing."""


def on_grid(coefficients: Tensor) -> Tensor:
    """Coefficients rounded towards zero to multiples of one power of two s with Σ|a_k| ≤ 2²⁴·s.

    s is at most 2⁻²³·Σ|a_k|, so the vector changes by less than K·2⁻²³ of its length; measured on Gaussian
    coefficients it is 2⁻¹⁸ for K = 64, 2⁻¹⁶ for K = 256 and 2⁻¹⁴ for K = 1024. A single coefficient stays as it is,
    and so do coefficients that are on a grid already, and any slice of them. Nothing here depends on the order of
    the coefficients, and no value is read back from the device.

    Args:
        coefficients: [K] float32, finite, K below 2²⁴.

    Returns:
        [K] float32.
    """
    if coefficients.is_cpu and not dispatcher_is_watched():
        return torch.from_numpy(_on_grid_of_host(coefficients.detach().numpy()))
    exact = coefficients.double()
    size = exact.abs()
    # Sizes as integers below 2²⁹, whose float64 sum is exact and therefore the same in any order.
    unit = (_power_below(size.amax()) * 2.0**-28).clamp(min=2.0**-200)
    total = (size / unit).ceil().sum() * unit
    step = (_power_below(total) * 2.0**-23).clamp(min=_LEAST_STEP)
    return ((exact / step).trunc() * step).to(coefficients.dtype)


def _on_grid_of_host(coefficients: np.ndarray) -> np.ndarray:
    """The same in NumPy, with the same bits: twenty operations of torch take as long as a small step's products."""
    exact = coefficients.astype(np.float64)
    size = np.abs(exact)
    unit = max(_host_power_below(size.max()) * 2.0**-28, 2.0**-200)
    total = np.ceil(size / unit).sum() * unit
    step = max(_host_power_below(total) * 2.0**-23, _LEAST_STEP)
    return (np.trunc(exact / step) * step).astype(coefficients.dtype)


def accumulate_on_grid(
    tensors: Sequence[Tensor],
    tensor_ids: Sequence[int],
    coefficients: Tensor,
    directions: Directions,
    dtype: torch.dtype = torch.float32,
) -> None:
    """:func:`zo_triton.ops.accumulate`, which for Rademacher signs gives the same bits on every engine.

    Their coefficients go :func:`on_grid` first. The sum is then exact and reaches each weight by one rounding.
    Other distributions round each product anyway, and keep their coefficients.
    """
    exact = on_grid(coefficients) if directions.signs else coefficients
    accumulate(tensors, tensor_ids, exact, directions, dtype)


def _power_below(value: Tensor) -> Tensor:
    """The largest power of two that is not above a float64; 0 for 0."""
    return (value.view(torch.int64) & _EXPONENT).view(torch.float64)


def _host_power_below(value: float) -> float:
    """The same of a number."""
    return 2.0 ** (frexp(value)[1] - 1) if value else 0.0
