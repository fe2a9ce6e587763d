"""The first four moments of a direction's coordinates: all that the expected kernels need to know of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from zo_triton.distributions import DISTRIBUTIONS
from zo_triton.nzk.arrays import as_vector

ROUNDING = 1e-12
"""Relative size below which a numerically integrated odd moment counts as zero."""


@dataclass(frozen=True)
class Moments:
    """Raw moments E[z], E[z²], E[z³], E[z⁴] of one coordinate.

    Args:
        m1: Mean.
        m2: Second raw moment.
        m3: Third.
        m4: Fourth.

    Raises:
        ValueError: One is not finite, or no distribution has these (m₂ < m₁² or m₄ < m₂²).

    Example:
        >>> from zo_triton.nzk import Moments
        >>> Moments(1.0, 2.0, 4.0, 10.0).variance
        1.0
    """

    m1: float
    m2: float
    m3: float
    m4: float

    def __post_init__(self) -> None:
        raw = (self.m1, self.m2, self.m3, self.m4)
        if not np.all(np.isfinite(raw)):
            raise ValueError(
                f"the raw moments are {raw}, but all four must be finite: the shared kernel's mean contains "
                "the fourth. Student-t needs more than 4 degrees of freedom."
            )
        if self.m2 < self.m1**2 * (1 - ROUNDING) or self.m4 < self.m2**2 * (1 - ROUNDING):
            raise ValueError(
                f"no distribution has the raw moments {raw}: m2 >= m1**2 and m4 >= m2**2 must hold."
            )

    @property
    def mean(self) -> float:
        """μ."""
        return self.m1

    @property
    def variance(self) -> float:
        """σ²."""
        return max(0.0, self.m2 - self.m1**2)

    @property
    def kurtosis(self) -> float:
        """κ, the central fourth moment divided by σ⁴: 3 for a Gaussian.

        Raises:
            ValueError: The variance is zero.
        """
        if self.variance == 0.0:
            raise ValueError(f"a constant, {self.m1}, has no kurtosis; its variance is zero.")
        fourth = self.m4 - 4 * self.m3 * self.m1 + 6 * self.m2 * self.m1**2 - 3 * self.m1**4
        return fourth / self.variance**2

    @property
    def centred(self) -> bool:
        """Whether the mean is zero, up to rounding."""
        return abs(self.m1) <= ROUNDING * self.m2**0.5

    @property
    def symmetric(self) -> bool:
        """Whether mean and third moment are zero, up to rounding: what a symmetric distribution has."""
        return self.centred and abs(self.m3) <= ROUNDING * self.m4**0.75


def moments(distribution: Any) -> Moments:
    """The moments of one coordinate of a direction.

    Args:
        distribution: A name in :data:`zo_triton.distributions.DISTRIBUTIONS`, a frozen ``scipy.stats``
            distribution, a :class:`Moments`, or one's own samples [count], at least 2 of them, taken for the
            whole distribution (drawing from it is drawing them with replacement).

    Returns:
        The raw moments. Student-t with ν > 4 degrees of freedom has κ = 3(ν−2)/(ν−4).

    Raises:
        TypeError: The value is none of these.
        ValueError: The name is unknown, the coordinates of ``sphere`` are asked for, which depend on one
            another, a moment is infinite, or the samples are too few or not finite.

    Example:
        >>> from zo_triton.nzk import moments
        >>> moments("uniform").kurtosis
        1.8
        >>> moments([0.0, 0.0, 3.0]).mean
        1.0
    """
    if isinstance(distribution, Moments):
        return distribution
    if isinstance(distribution, str):
        return _field_moments(distribution)
    if hasattr(distribution, "rvs"):
        return _scipy_moments(distribution)
    samples = check_samples(distribution)
    return Moments(*(float(np.mean(samples**order)) for order in (1, 2, 3, 4)))


def check_separate(kernel: str, coupling: str, num_directions: int) -> None:
    """Refuses the NZK with several ``hadamard`` directions, whose moments are not those of independent ones.

    Raises:
        ValueError: It is asked for.
    """
    if kernel == "nzk" and (coupling == "independent" or num_directions > 1):
        raise ValueError(
            "the NZK of 'hadamard' directions has no closed form here: those of a step depend on one another; use "
            "'rademacher', or kernel='update'."
        )


def check_samples(value: Any) -> np.ndarray:
    """One's own samples as float64 [count].

    Raises:
        TypeError: The value holds no numbers.
        ValueError: Fewer than two, several dimensions, or not finite.
    """
    if value is None or isinstance(value, (dict, set)) or callable(value):
        raise TypeError(
            f"a distribution is a name ({', '.join(DISTRIBUTIONS)}), a frozen scipy.stats distribution, "
            f"zo.nzk.Moments, or an array of samples; got {value!r}."
        )
    samples = as_vector(value, "samples of a distribution")
    if len(samples) < 2:
        raise ValueError(f"a distribution needs at least 2 samples, got {len(samples)}.")
    return samples


def check_independent(name: str) -> None:
    """Refuses a distribution whose directions depend on one another: the formulas here are of independent ones.

    Raises:
        ValueError: They do.
    """
    if name in DISTRIBUTIONS and DISTRIBUTIONS[name].orthogonal:
        raise ValueError(
            f"the directions of a step of {name!r} depend on one another, and these formulas and draws are of "
            "independent ones; take 'rademacher', of which one direction is the same."
        )


def _field_moments(name: str) -> Moments:
    if name not in DISTRIBUTIONS:
        raise ValueError(
            f"unknown distribution {name!r}; choose one of {tuple(DISTRIBUTIONS)}, or pass a frozen scipy.stats "
            "distribution or samples."
        )
    if DISTRIBUTIONS[name].elements is not None:
        raise ValueError(
            f"the coordinates of {name!r} depend on one another, so moments of one don't determine the "
            "kernel; expected and factor take the name itself, which they treat exactly."
        )
    second, fourth, *_ = DISTRIBUTIONS[name].even_moments
    return Moments(0.0, second, 0.0, fourth)


def _scipy_moments(distribution: Any) -> Moments:
    if not hasattr(distribution, "moment"):
        raise TypeError(
            f"{distribution!r} tells no moments; pass a frozen univariate scipy.stats distribution such as "
            "scipy.stats.t(10)."
        )
    try:
        raw = [np.asarray(distribution.moment(order), dtype=np.float64) for order in (1, 2, 3, 4)]
    except TypeError as error:
        raise TypeError(
            f"{distribution!r} tells no moments without its parameters; freeze it first, as in "
            "scipy.stats.t(10)."
        ) from error
    if any(value.ndim for value in raw):
        raise ValueError(
            f"a distribution's parameters must be numbers, but its moments have shape {raw[0].shape}."
        )
    return Moments(*(float(value) for value in raw))
