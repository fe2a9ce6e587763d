"""The table of distributions: what every engine draws, and what theory and tests expect of the draws.

A new distribution is an entry here and a routine in each engine's ``field`` (reference, cpu, kernels). An engine
that lacks it refuses it by name; the tests run over the table and notice what is missing or wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from math import erf, exp, sqrt


@dataclass(frozen=True)
class Distribution:
    """One distribution of the field's elements; each is symmetric and has variance 1.

    Args:
        code: The integer that stands for it in compiled code and in a custom op's arguments.
        even_moments: E z², E z⁴, E z⁶, E z⁸ of one element, exact.
        cdf: P(z ≤ x) for a number x.
        signs: Whether elements are ±1. A block of the generator then covers 4 rows × 32 columns, a bit each, and
            all engines agree bit for bit; otherwise it covers 4 rows × 1 column, and they agree to 1e-5.
        elements: The distribution whose draws are scaled to length √d, all tensors of a direction together;
            moments and CDF are that one's. None: elements are independent, and nothing is scaled.
        orthogonal: The directions of a step belong together: rows of one Hadamard matrix, each column with a random
            sign (:mod:`zo_triton.hadamard`). The elements of any one direction are independent all the same.
    """

    code: int
    even_moments: tuple[float, float, float, float]
    cdf: Callable[[float], float]
    signs: bool = False
    elements: str | None = None
    orthogonal: bool = False


def _sign_cdf(x: float) -> float:
    return 0.0 if x < -1.0 else 0.5 if x < 1.0 else 1.0


def _gaussian_cdf(x: float) -> float:
    return 0.5 * (1.0 + erf(x / sqrt(2.0)))


def _uniform_cdf(x: float) -> float:
    return min(1.0, max(0.0, 0.5 + x / sqrt(12.0)))


def _laplace_cdf(x: float) -> float:
    tail = 0.5 * exp(-sqrt(2.0) * abs(x))
    return tail if x < 0 else 1.0 - tail


_GAUSSIAN = Distribution(1, (1.0, 3.0, 15.0, 105.0), _gaussian_cdf)

DISTRIBUTIONS: dict[str, Distribution] = {
    "rademacher": Distribution(0, (1.0, 1.0, 1.0, 1.0), _sign_cdf, signs=True),
    "gaussian": _GAUSSIAN,
    "uniform": Distribution(2, (1.0, 9 / 5, 27 / 7, 9.0), _uniform_cdf),
    "laplace": Distribution(3, (1.0, 6.0, 90.0, 2520.0), _laplace_cdf),
    "sphere": replace(_GAUSSIAN, code=4, elements="gaussian"),
    "hadamard": Distribution(5, (1.0, 1.0, 1.0, 1.0), _sign_cdf, signs=True, orthogonal=True),
}
"""Every distribution by its name."""

INDEPENDENT = tuple(name for name, entry in DISTRIBUTIONS.items() if entry.elements is None)
"""Those whose elements are independent: what an engine has a routine for."""


def name_of(code: int) -> str:
    """The distribution's name.

    Raises:
        ValueError: No distribution has this code.
    """
    for name, distribution in DISTRIBUTIONS.items():
        if distribution.code == code:
            return name
    codes = {name: distribution.code for name, distribution in DISTRIBUTIONS.items()}
    raise ValueError(f"unknown code {code} of a distribution; choose one of {codes}.")


def check_drawn(name: str, drawn: Collection[str], engine: str) -> str:
    """The name itself, if the engine draws such elements.

    Args:
        name: Of a distribution with independent elements.
        drawn: What the engine has routines for.
        engine: Its name, for the error.

    Raises:
        ValueError: It has none for this one.
    """
    if name not in drawn:
        raise ValueError(f"the {engine} engine can't draw {name!r}; choose one of {tuple(drawn)}.")
    return name
