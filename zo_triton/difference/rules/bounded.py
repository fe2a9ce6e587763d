"""Functions whose domain ends at ±1: by addition theorems in float64, exact up to the end.

The slope has no bound there, so that no step is short, and float32 does not know how near the end is: 1 − (a + δ)
loses digits when a + δ is rounded. Beyond the end the differences are NaN, as the functions are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor

from zo_triton.difference.registry import rule
from zo_triton.difference.rules.elementwise import needed

if TYPE_CHECKING:
    from zo_triton.difference.mode import DifferenceMode

_TINY = torch.finfo(torch.float64).tiny


Formula: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""From a and δ, both float64, to f(a+δ) − f(a)."""


def _bounded(*names: str) -> Callable[[Formula], Formula]:
    """Registers a function of one tensor by its formula."""

    def decorate(formula: Formula) -> Formula:
        @rule(*names)
        def _(mode: DifferenceMode, base: Tensor, input: Tensor) -> Tensor:
            return formula(input.double(), needed(mode, base, input).double())

        return formula

    return decorate


@_bounded("log1p")
def _logarithm(a: Tensor, delta: Tensor) -> Tensor:
    """The logarithm of a quotient."""
    return torch.where(a >= -1, torch.log1p(delta / (1 + a)), torch.nan)


@_bounded("asin", "arcsin")
def _arc(a: Tensor, delta: Tensor) -> Tensor:
    """The angle between (√(1−a²), a) and (√(1−b²), b), b = a + δ; no two angles are subtracted."""
    b = a + delta
    before, after = (((1 - each) * (1 + each)).sqrt() for each in (a, b))
    across = delta * (before + a * (a + b) / (before + after).clamp_min(_TINY))
    return torch.atan2(across, before * after + a * b)


@_bounded("acos", "arccos")
def _mirrored_arc(a: Tensor, delta: Tensor) -> Tensor:
    """Of acos = π/2 − asin."""
    return -_arc(a, delta)


@_bounded("atanh", "arctanh")
def _area_tangent(a: Tensor, delta: Tensor) -> Tensor:
    """½·ln((1+b)/(1+a)) − ½·ln((1−b)/(1−a)), b = a + δ: two terms of one sign."""
    change = (torch.log1p(delta / (1 + a)) - torch.log1p(-delta / (1 - a))) / 2
    return torch.where(a.abs() <= 1, change, torch.nan)


@_bounded("acosh", "arccosh")
def _area_cosine(a: Tensor, delta: Tensor) -> Tensor:
    """The area whose hyperbolic sine is b·√(a²−1) and a·√(b²−1) apart, b = a + δ, made a quotient."""
    b = a + delta
    before, after = ((each - 1).sqrt() * (each + 1).sqrt() for each in (a, b))
    return torch.asinh(delta * (a + b) / (a * after + b * before).clamp_min(_TINY))
