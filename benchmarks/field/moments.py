"""Moments and distribution functions of everything that the field draws, against their exact values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import comb, prod, sqrt

import numpy as np
from scipy import special, stats

import zo_triton as zo
from zo_triton.distributions import DISTRIBUTIONS, INDEPENDENT, Distribution

_SPHERE_DIMENSION = 16
_SIDE = 32
"""Of a low-rank matrix; its diagonal's elements share no factor, so that they are independent."""

Moments = Sequence[float]
"""E z^k for k = 0 … 8."""

Draw = Callable[[int, int, int], np.ndarray]
"""From (seed, step, count) to at most so many independent values, float64."""


@dataclass(frozen=True)
class Law:
    """What a distribution is and how it is drawn.

    Args:
        draw: Independent values by the CPU engine.
        moments: E z^k, k = 0 … 8, exact.
        distribution: P(z ≤ x) for an array of x; None for a discrete one.
    """

    draw: Draw
    moments: Moments
    distribution: Callable[[np.ndarray], np.ndarray] | None = None


def _even(*moments: float) -> Moments:
    """Of a symmetric law: those of order 2, 4, 6 and 8 are given."""
    return [1.0, *(each for moment in moments for each in (0.0, moment))]


def low_rank_moments(factor: Moments, rank: int) -> Moments:
    """Of Σ a_l·b_l/√r over r pairs of independent factors.

    E (S + ab)^k is a binomial sum of products of moments, pair after pair.
    """
    pair = [moment**2 for moment in factor]
    total = [1.0, *[0.0] * 8]
    for _ in range(rank):
        total = [sum(comb(k, j) * total[j] * pair[k - j] for j in range(k + 1)) for k in range(9)]
    return [moment / sqrt(rank) ** k for k, moment in enumerate(total)]


def _elements(distribution: str) -> Draw:
    def draw(seed: int, step: int, count: int) -> np.ndarray:
        directions = zo.Directions(seed, step, 16, distribution)
        columns = -(-count // 256)
        return _sample(directions, (16, columns)).ravel()[:count]

    return draw


def _first_of_each(seed: int, step: int, count: int) -> np.ndarray:
    # A direction's length is a sum of its own: one value costs as much as a thousand elsewhere.
    directions = zo.Directions(seed, step, max(1, count // 16), "sphere")
    return _sample(directions, (_SPHERE_DIMENSION,))[:, 0]


def _diagonals(distribution: str, rank: int) -> Draw:
    def draw(seed: int, step: int, count: int) -> np.ndarray:
        directions = zo.Directions(seed, step, -(-count // _SIDE), distribution, rank=rank)
        return _sample(directions, (_SIDE, _SIDE)).diagonal(axis1=1, axis2=2).ravel()[:count]

    return draw


def _sample(directions: zo.Directions, shape: tuple[int, ...]) -> np.ndarray:
    with zo.use_engine("cpu"):
        return zo.sample(directions, 0, shape).double().numpy()


def _sphere_function(x: np.ndarray) -> np.ndarray:
    """A coordinate squared, over d, is Beta(1/2, (d - 1)/2)."""
    d = _SPHERE_DIMENSION
    return 0.5 + 0.5 * np.sign(x) * special.betainc(0.5, (d - 1) / 2, np.minimum(x**2 / d, 1.0))


def _moments(distribution: str) -> Moments:
    return _even(*DISTRIBUTIONS[distribution].even_moments)


def _function(distribution: Distribution) -> Callable[[np.ndarray], np.ndarray] | None:
    return None if distribution.signs else np.vectorize(distribution.cdf, otypes=[np.float64])


_D = _SPHERE_DIMENSION

LAWS: dict[str, Law] = {
    **{
        name: Law(_elements(name), _moments(name), _function(DISTRIBUTIONS[name])) for name in INDEPENDENT
    },
    f"sphere, d = {_D}": Law(
        _first_of_each,
        _even(*(prod(range(1, 2 * k, 2)) * _D**k / prod(range(_D, _D + 2 * k, 2)) for k in range(1, 5))),
        _sphere_function,
    ),
    # Two products of Gaussians add up to a Laplace value exactly.
    "gaussian, rank 2": Law(
        _diagonals("gaussian", 2), low_rank_moments(_moments("gaussian"), 2), _function(DISTRIBUTIONS["laplace"])
    ),
    "rademacher, rank 3": Law(_diagonals("rademacher", 3), low_rank_moments(_moments("rademacher"), 3)),
}  # fmt: skip


def examine(law: Law, seed: int, chunks: int, count: int, first_step: int = 0) -> dict[str, object]:
    """Moments over many values, and the distribution function over the first chunk's.

    Args:
        law: What to draw and what to expect.
        seed: Of the field.
        chunks: How many draws, of a step each.
        count: Most values a draw.
        first_step: Of the field; different laws are to use different words.

    Returns:
        ``values``: how many; ``z``: z-scores of the moments of order 1 to 4, None where the moment is exact
        in every value and was found so; ``ks``: Kolmogorov and Smirnov's p-value, None for a discrete law.
    """
    sums = np.zeros(4)
    total, ks = 0, None
    for chunk in range(chunks):
        values = law.draw(seed, first_step + chunk, count)
        total += values.size
        powers = values
        for order in range(4):
            sums[order] += powers.sum()
            powers = powers * values
        if chunk == 0 and law.distribution is not None:
            ks = float(stats.kstest(values, law.distribution).pvalue)
    return {
        "values": total,
        "z": [_z_score(sums[k - 1] / total, law.moments, k, total) for k in range(1, 5)],
        "ks": ks,
    }


def _z_score(mean: float, moments: Moments, order: int, total: int) -> float | None:
    variance = moments[2 * order] - moments[order] ** 2
    error = mean - moments[order]
    if variance < 1e-12:
        # A constant, such as the square of a sign: the least deviation is beyond all chance.
        return None if abs(error) < 1e-6 else 1e9
    return float(error / sqrt(variance / total))


def p_value(z: float | None) -> float:
    """Two-sided, of a z-score; 1 for an exact moment."""
    return 1.0 if z is None else max(np.finfo(float).tiny, float(2 * stats.norm.sf(abs(z))))
