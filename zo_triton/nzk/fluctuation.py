"""The first two moments of a random step, counted out exactly.

A step is θ ← θ - (η/n)·M·Xᵀr with a random M: P̂ = K⁻¹·Σ zzᵀ for the update kernel, P̂² for the NZK with shared
vectors, P̂_ζ·P̂_z with independent ones. For i.i.d. coordinates, centred and symmetric, and any symmetric A

    E M = μ·I,    E M·A·Mᵀ = α·A + β·tr(A)·I + γ·diag(A).

The four numbers are sums over the ways in which directions and coordinates coincide (own derivation, confirmed
by simulation); on the sphere, whose coordinates depend on one another, likewise.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from math import inf, isfinite, perm, prod
from typing import Any, NamedTuple

import numpy as np
from scipy.integrate import IntegrationWarning

from zo_triton.distributions import DISTRIBUTIONS
from zo_triton.nzk.arrays import check_count
from zo_triton.nzk.coordinate_moments import check_samples, check_separate
from zo_triton.nzk.function_space import check_kind
from zo_triton.overlap import mean_overlap


class StepMoments(NamedTuple):
    """E M = ``mean``·I and E M·A·Mᵀ = ``same``·A + ``trace``·tr(A)·I + ``diagonal``·diag(A).

    Attributes:
        mean: μ.
        same: α.
        trace: β.
        diagonal: γ; 0 for Gaussian directions and on the sphere.
        size: d, or None where nothing depends on it.
    """

    mean: float
    same: float
    trace: float
    diagonal: float
    size: int | None

    @property
    def averaged_trace(self) -> float:
        """β + γ/d: diag(A) replaced by its average tr(A)/d·I, exact where γ = 0."""
        return self.trace + (self.diagonal / self.size if self.size and self.diagonal else 0.0)


def step_moments(
    size: int | None,
    distribution: Any = "gaussian",
    num_directions: int = 1,
    coupling: str = "shared",
    kernel: str = "update",
) -> StepMoments:
    """The four numbers that describe a step's first two moments.

    For variance 1 and kurtosis κ, the update kernel has μ = 1, α = (K+1)/K, β = 1/K, γ = (κ-3)/K. The NZK with
    Gaussian vectors and K = 1 has μ = d+2, α = 2(d+4)(d+6), β = (d+4)(d+6) if they are shared, and μ = 1,
    α = 4, β = d+4 if they are independent.

    Args:
        size: d, the number of trained parameters; None will do for the update kernel with Gaussian vectors.
        distribution: A name of the field, a frozen scipy distribution, the user's own samples [≥ 2], or
            :class:`zo_triton.nzk.Moments` (not for shared vectors, which need eight moments).
        num_directions: K, averaged.
        coupling: "shared" or "independent" vectors in the NZK.
        kernel: "update" or "nzk".

    Returns:
        The numbers. d = 1 has no separate terms: all of the second moment is in ``same``.

    Raises:
        TypeError: A count is no integer, or the distribution is of an unknown type.
        ValueError: An unknown name, a missing size, a distribution that is not centred and symmetric, one without
            the moments needed, or the NZK with several ``hadamard`` directions.
    """
    twice = check_kind(kernel, coupling)
    check_count(num_directions, "num_directions")
    power = 2 if kernel == "nzk" and not twice else 1
    moments = _even_moments(distribution, 4 * power)
    if size is None:
        if kernel != "update" or not isinstance(distribution, str) or distribution != "gaussian":
            raise ValueError(
                f"size is needed: the {kernel!r} kernel's second moment with these directions depends on the "
                "number of trained parameters."
            )
        return StepMoments(1.0, (num_directions + 1) / num_directions, 1 / num_directions, 0.0, None)
    check_count(size, "size")
    if isinstance(distribution, str) and distribution == "hadamard":
        return _orthogonal(size, num_directions, kernel, coupling)
    sphere = isinstance(distribution, str) and distribution == "sphere"
    counted = _count(size, moments, num_directions, power, sphere)
    return _twice(counted, size) if twice else counted


def _orthogonal(size: int, num: int, kernel: str, coupling: str) -> StepMoments:
    """Rows of the smallest matrix with K of them: signs whose overlaps V (:mod:`zo_triton.overlap`) stand for 1/K.

    With up to M elements exact in the mean over the choice of rows, beyond with the mean overlap for each pair's.
    """
    check_separate(kernel, coupling, num)
    order = 1 << (num - 1).bit_length()
    overlap = mean_overlap(size, num, order)
    if size == 1:
        return StepMoments(1.0, 1.0, 0.0, 0.0, size)
    return StepMoments(1.0, 1 + overlap, overlap, -2 * overlap, size)


def _even_moments(distribution: Any, order: int) -> tuple[float, ...]:
    """m₂, m₄, … m_order of a centred, symmetric distribution."""
    if isinstance(distribution, str):
        if distribution not in DISTRIBUTIONS:
            raise ValueError(f"unknown distribution {distribution!r}; choose one of {tuple(DISTRIBUTIONS)}.")
        return DISTRIBUTIONS[distribution].even_moments[: order // 2]
    if hasattr(distribution, "m4"):
        raw = [distribution.m1, distribution.m2, distribution.m3, distribution.m4]
        if order > 4:
            raise ValueError(
                "the spread of the NZK with shared vectors needs eight moments, and Moments hold four; pass "
                "the distribution's name, a scipy distribution or samples."
            )
    elif hasattr(distribution, "moment"):
        raw = _scipy_moments(distribution, order)
    else:
        samples = check_samples(distribution)
        raw = [float(np.mean(samples**power)) for power in range(1, order + 1)]
    if not all(isfinite(value) for value in raw):
        raise ValueError(
            f"the distribution has no finite moments up to order {order}; its spread is infinite."
        )
    scale = raw[1] ** 0.5
    odd = max(abs(value) / scale ** (2 * place + 1) for place, value in enumerate(raw[0::2]))
    if not odd < 1e-9:
        raise ValueError(
            f"the spread is known only for centred, symmetric directions, and these have odd moments {raw[0::2]}; "
            "of samples, pass np.concatenate([samples, -samples])."
        )
    return tuple(raw[1::2])


def _scipy_moments(distribution: Any, order: int) -> list[float]:
    """Raw moments; infinite where there is none or scipy's integration finds no limit."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", IntegrationWarning)
        try:
            if getattr(getattr(distribution, "dist", None), "name", None) == "t":
                return _student_moments(distribution, order)
            return [float(distribution.moment(power)) for power in range(1, order + 1)]
        except IntegrationWarning:
            return [inf]


def _student_moments(distribution: Any, order: int) -> list[float]:
    """Student-t's by its formula: scipy's integral warns at moments that exist and finds some that do not."""
    freedom = float(distribution.args[0] if distribution.args else distribution.kwds["df"])
    if freedom <= order:
        return [inf]
    mean, variance = float(distribution.mean()), float(distribution.var())
    raw = [mean, variance]
    while len(raw) < order:
        power = len(raw) + 2
        last = raw[-1] * variance * (power - 1) * (freedom - 2) / (freedom - power)
        raw += [mean, last]
    return raw


def _twice(once: StepMoments, size: int) -> StepMoments:
    """The map applied for z and then for ζ: M = P̂_ζ·P̂_z of independent vectors."""
    same, trace, diagonal = once.same, once.trace, once.diagonal
    return StepMoments(
        once.mean**2,
        same**2,
        trace * (2 * same + size * trace + 2 * diagonal),
        diagonal * (2 * same + diagonal),
        size,
    )


def _count(size: int, moments: tuple[float, ...], num: int, power: int, sphere: bool) -> StepMoments:
    """The numbers of M = (K⁻¹·Σ zzᵀ)^power from moments of its elements."""

    def element(*pairs: tuple[int, int]) -> float:
        return _expectation(pairs, size, moments, num, power, sphere) / num ** (power * len(pairs))

    mean, square = element((0, 0)), element((0, 0), (0, 0))
    if size == 1:
        return StepMoments(mean, square, 0.0, 0.0, size)
    trace = element((0, 1), (0, 1))
    same = element((0, 0), (1, 1)) + trace
    diagonal = square - same - trace
    rounding = 1e-12 * square
    return StepMoments(mean, same, trace, diagonal if abs(diagonal) > rounding else 0.0, size)


def _expectation(
    pairs: Sequence[tuple[int, int]],
    size: int,
    moments: tuple[float, ...],
    num: int,
    power: int,
    sphere: bool,
) -> float:
    """E of the product of the elements (i, j) of (Σ_k z_k·z_kᵀ)^power, by counting coincidences.

    The product is a sum over directions k, l, … and inner coordinates a, b, … . Which of them coincide decides
    the power of each z_{k,a}, hence the expectation; how many choices coincide so is a falling factorial.
    """
    fixed = len({index for pair in pairs for index in pair})
    inner = (power - 1) * len(pairs)
    total = 0.0
    for rows in _coincidences(power * len(pairs), 0):
        for coordinates in _coincidences(inner, fixed):
            powers: dict[tuple[int, int], int] = {}
            for place, (left, right) in enumerate(pairs):
                middle = coordinates[place * (power - 1) : (place + 1) * (power - 1)]
                path = (left, *middle, right)
                for step in range(power):
                    row = rows[place * power + step]
                    for column in path[step : step + 2]:
                        powers[row, column] = powers.get((row, column), 0) + 1
            if any(count % 2 for count in powers.values()):
                continue
            expected = prod(moments[count // 2 - 1] for count in powers.values())
            if sphere:
                expected *= _on_sphere(powers, size)
            fresh = max((*coordinates, fixed - 1)) + 1 - fixed
            total += expected * perm(num, max(rows) + 1) * perm(size - fixed, fresh)
    return total


def _on_sphere(powers: dict[tuple[int, int], int], size: int) -> float:
    """From Gaussian vectors to vectors of length √d: a row of degree 2m loses Π_{j<m} (1 + 2j/d)."""
    degrees: dict[int, int] = {}
    for (row, _), count in powers.items():
        degrees[row] = degrees.get(row, 0) + count
    return 1 / prod(1 + 2 * j / size for degree in degrees.values() for j in range(degree // 2))


def _coincidences(count: int, known: int) -> Iterator[tuple[int, ...]]:
    """All ways in which ``count`` indices coincide with ``known`` given ones or one another, numbered in order."""
    if count == 0:
        yield ()
        return
    for rest in _coincidences(count - 1, known):
        fresh = max((*rest, known - 1)) + 1
        for value in range(fresh + 1):
            yield (*rest, value)
