"""How a closure is evaluated along its directions, whoever asks: one value, checked where it is made."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from numbers import Real

import torch
from torch import Tensor

COMPUTE_DTYPES = (torch.float32, torch.bfloat16)

SMALLEST_EPS = 1e-30
"""Below it, ε times a small activation leaves the normal range of float32."""


@dataclass(frozen=True)
class Evaluation:
    """The settings of a measurement that do not depend on what is measured.

    Args:
        eps: Smoothing radius ε > 0.
        sides: 1 for L(θ+εz) − L(θ); 2 for that and L(θ−εz) − L(θ).
        compute_dtype: Of the activations' differences, float32 or bfloat16; z is rounded to it as well.
        chunk: Directions evaluated at once, at most; None for as many as fit.
        strict: Refuse a torch function without a difference rule instead of subtracting its values.

    Raises:
        TypeError: ``eps`` is no number.
        ValueError: A setting is out of range.

    Example:
        >>> Evaluation(1e-3, sides=2).steps
        (0.001, -0.001)
    """

    eps: float
    sides: int = 1
    compute_dtype: torch.dtype = torch.float32
    chunk: int | None = None
    strict: bool = False

    def __post_init__(self) -> None:
        eps, chunk = self.eps, self.chunk
        if isinstance(eps, bool) or not isinstance(eps, Real):
            raise TypeError(f"eps must be a number, got {eps!r} of type {type(eps).__name__}.")
        # An integer too large for a float is finite as well.
        if not eps > 0 or eps == inf:
            raise ValueError(f"eps must be positive and finite, got {eps}; 1e-4 suits most models.")
        if not SMALLEST_EPS <= eps <= 1 / SMALLEST_EPS:
            raise ValueError(
                f"eps {eps} is too {'small' if eps < 1 else 'large'} for float32; use one between "
                f"{SMALLEST_EPS} and {1 / SMALLEST_EPS}."
            )
        if self.sides not in (1, 2):
            raise ValueError(f"sides must be 1 (one-sided) or 2 (central differences), got {self.sides!r}.")
        if self.compute_dtype not in COMPUTE_DTYPES:
            raise ValueError(
                f"compute_dtype must be torch.float32 or torch.bfloat16, got {self.compute_dtype}."
            )
        if chunk is not None and (isinstance(chunk, bool) or not isinstance(chunk, int) or chunk < 1):
            raise ValueError(
                f"chunk must be at least 1 direction, or None for as many as fit, got {chunk!r}."
            )

    @property
    def steps(self) -> tuple[float, ...]:
        """Sε of each side: (ε,), or (ε, −ε)."""
        eps = float(self.eps)
        return (eps,) if self.sides == 1 else (eps, -eps)

    def slopes(self, differences: Tensor) -> Tensor:
        """The projected gradients c_k, [K]: ΔL/ε, or (ΔL₊ − ΔL₋)/2ε.

        Args:
            differences: [K], or [K, 2] with the plus side first.
        """
        if self.sides == 1:
            return differences / float(self.eps)
        return (differences[:, 0] - differences[:, 1]) / (2 * float(self.eps))
