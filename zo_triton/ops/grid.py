"""Sums of signs without rounding: coefficients on a grid so coarse that float32 holds every partial sum.

A float32 sum depends on its order once it rounds. If all coefficients are multiples of one power of two s and
Σ|a_k| ≤ 2²⁴·s, every sum of ±a_k is an integer of at most 24 bits times s, which float32 holds: no order, tile,
chunk, thread, engine or number of ranks changes a bit. This is the reproducible summation of Demmel and Nguyen,
"Fast reproducible floating-point summation", ARITH 2013, for terms whose size is known beforehand.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

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
        # In torch these few operations take as long as a small step's products.
        host = coefficients.detach().numpy()
        return torch.from_numpy(_rounded(host.astype(np.float64), np, max).astype(host.dtype))
    return _rounded(coefficients.double(), torch, torch.clamp).to(coefficients.dtype)


def _rounded(exact: Any, library: Any, at_least: Callable[[Any, float], Any]) -> Any:
    """:func:`on_grid` of float64 coefficients in torch or in NumPy, with the same words for all but bounds."""
    size = abs(exact)
    # Sizes as integers below 2²⁹, whose float64 sum is exact and therefore the same in any order.
    unit = at_least(_power_below(size.max(), library) * 2.0**-28, 2.0**-200)
    total = library.ceil(size / unit).sum() * unit
    step = at_least(_power_below(total, library) * 2.0**-23, _LEAST_STEP)
    return library.trunc(exact / step) * step


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


def _power_below(value: Any, library: Any) -> Any:
    """The largest power of two that is not above a float64; 0 for 0."""
    return (value.view(library.int64) & _EXPONENT).view(library.float64)
