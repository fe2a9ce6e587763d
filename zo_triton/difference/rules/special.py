"""Special functions: their difference is the integral of their derivative, by quadrature over a short step.

Gauss and Legendre's four nodes leave an error below float32's rounding where the step is short beside the length
over which the derivative changes; where it is long, subtracting the two values in float64 is accurate.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from zo_triton.difference.registry import rule
from zo_triton.difference.rules.elementwise import needed, wide
from zo_triton.ops import engines

if TYPE_CHECKING:
    from zo_triton.difference.mode import DifferenceMode

NODES = (0.861136311594052575, 0.339981043584856265)
WEIGHTS = (0.347854845137453857, 0.652145154862546143)
"""Of four points on [−1, 1], which lie on both sides of zero (Abramowitz and Stegun, 25.4)."""


def _smooth(*names: str, derivative: Callable[[Tensor], Tensor], length: Callable[[Tensor], Any]) -> None:
    """Registers a smooth function of one tensor.

    Args:
        names: Its names.
        derivative: Of it.
        length: From a to the longest step that is still short there; negative where no step is.
    """
    function = getattr(torch, names[0])

    @rule(*names)
    def _(mode: DifferenceMode, base: Tensor, input: Tensor) -> Tensor:
        a, delta = wide(input), needed(mode, base, input)
        half = delta / 2
        middle = a + half
        total = sum(
            weight * (derivative(middle + node * half) + derivative(middle - node * half))
            for node, weight in zip(NODES, WEIGHTS, strict=True)
        )
        result = half * total
        is_long = ~(delta.abs() <= length(a))
        if engines.any_set(is_long):
            exact = a.double()
            result = torch.where(
                is_long, (function(exact + delta) - function(exact)).to(result.dtype), result
            )
        return result


_smooth("erf", derivative=lambda t: 2 / math.sqrt(math.pi) * (-t * t).exp(), length=lambda a: 0.25)
_smooth("erfc", derivative=lambda t: -2 / math.sqrt(math.pi) * (-t * t).exp(), length=lambda a: 0.25)
_smooth("lgamma", "gammaln", derivative=torch.digamma, length=lambda a: a / 8)


# Each of the next has its nearest singularity in the complex plane at a distance that bounds the step.
_smooth("atan", "arctan", derivative=lambda t: 1 / (1 + t * t), length=lambda a: 0.25)
_smooth("asinh", "arcsinh", derivative=lambda t: torch.rsqrt(1 + t * t), length=lambda a: 0.25)
_smooth("digamma", "psi", derivative=lambda t: torch.polygamma(1, t), length=lambda a: a / 8)
_smooth("i0", derivative=torch.special.i1, length=lambda a: 0.25)
