"""Closed forms of a problem's mean path, its mean loss, and where each method stands at its best learning rate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import integrate, optimize, stats

from benchmarks.nzk.problems import Modes
from benchmarks.nzk.settings import Noise
from zo_triton.nzk.fluctuation import StepMoments, step_moments
from zo_triton.nzk.second_moment import eigenbasis_growth

SHARES = np.concatenate([np.geomspace(0.002, 0.1, 8), np.linspace(0.15, 0.95, 17)])
"""Shares of the stable limit among which a method's best learning rate is looked for."""


def method_moments(method: str, size: int, noise: Noise, directions: int) -> StepMoments:
    """First two moments of a step's matrix.

    Keeping the best of K Gaussian directions moves by |g|(q·e + √q·ξ) with q = max_k u_k² (see
    :mod:`~benchmarks.nzk.ensemble`), so that E M = E q·I and
    E M·A·Mᵀ = (E q² - E q)·A + E q·tr(A)·I for A = ggᵀ: own derivation, one direction gives the known 1, 2, 1.

    Args:
        method: ``first`` (plain gradient descent), ``shared``, ``independent``, ``update`` or ``best``.
        size: The number of parameters d.
        noise: Of the directions.
        directions: K.
    """
    if method == "first":
        return StepMoments(1.0, 1.0, 0.0, 0.0, size)
    if method == "best":
        first, second = best_moments(directions)
        return StepMoments(first, second - first, first, 0.0, size)
    kernel, coupling = ("update", "shared") if method == "update" else ("nzk", method)
    unit = step_moments(size, noise.field or noise.law(), directions, coupling, kernel)
    # The field's values have variance 1; scipy's distributions bring their own scale.
    power = noise.scale ** (2 if kernel == "update" else 4) if noise.field else 1.0
    return StepMoments(
        unit.mean * power, unit.same * power**2, unit.trace * power**2, unit.diagonal * power**2, size
    )


def best_moments(directions: int) -> tuple[float, float]:
    """E q and E q² of the largest q of K squared standard normals."""

    def exceeds(value: float) -> float:
        return float(-np.expm1(directions * stats.chi2.logcdf(value, 1)))

    first, _ = integrate.quad(exceeds, 0, np.inf, limit=200)
    second, _ = integrate.quad(lambda value: 2 * value * exceeds(value), 0, np.inf, limit=200)
    return float(first), float(second)


def mean_path_losses(
    modes: Modes, moments: StepMoments, lr: float, steps: Sequence[int] | np.ndarray
) -> np.ndarray:
    """Loss of the mean outputs, L(E f_t), [T]; infinite where it overflows."""
    powers = np.abs(1 - lr * moments.mean * modes.curvatures) ** (2 * np.asarray(steps, float)[:, None])
    with np.errstate(over="ignore", invalid="ignore"):
        return modes.floor + powers @ modes.start**2 / (2 * modes.samples)


def mean_losses(
    modes: Modes, moments: StepMoments, lr: float, steps: Sequence[int] | np.ndarray
) -> np.ndarray:
    """Mean loss over runs, E L(f_t), [T], by the second moment's recursion; infinite where it overflows.

    Exact for Gaussian directions; for others the term of diag(A) is replaced by its average.
    """
    if not moments.averaged_trace:
        return mean_path_losses(modes, moments, lr, steps)
    growth = eigenbasis_growth(modes.curvatures, lr, moments)
    rates, vectors = np.linalg.eigh(growth)
    weights = (vectors.T @ modes.start**2) * vectors.sum(0)
    with np.errstate(over="ignore", invalid="ignore"):
        total = (1 + rates) ** np.asarray(steps)[:, None] @ weights
    total = np.where(np.isfinite(total), np.maximum(total, 0.0), np.inf)
    return modes.floor + total / (2 * modes.samples)


def stable_limit(modes: Modes, moments: StepMoments) -> float:
    """η* where the second moment stops shrinking: Σ ηβλ/(2μ - ηαλ) = 1, for α ≥ 0 and β > 0 or β = 0."""
    values, noise = modes.curvatures, moments.averaged_trace
    top = 2 * moments.mean / (max(moments.same, 1e-300) * values.max())
    if not noise:
        return float(top)

    def excess(lr: float) -> float:
        return float(np.sum(lr * noise * values / (2 * moments.mean - lr * moments.same * values))) - 1

    return float(optimize.brentq(excess, 0.0, top * (1 - 1e-12), xtol=1e-300, rtol=1e-12))


@dataclass(frozen=True)
class Rate:
    """What the closed forms say of one method at one learning rate.

    Attributes:
        lr: η.
        half: First step at which the mean loss has shed half of what it can shed, None if never.
        tenth: The same for nine tenths.
        final: Mean loss after the last step, None if it overflows.
    """

    lr: float
    half: int | None
    tenth: int | None
    final: float | None


def rate_at(modes: Modes, moments: StepMoments, lr: float, steps: int) -> Rate:
    """The closed form at every step up to ``steps``."""
    every = np.arange(steps + 1)
    losses = mean_losses(modes, moments, lr, every)
    excess = (losses - modes.floor) / (losses[0] - modes.floor)

    def reached(share: float) -> int | None:
        below = np.flatnonzero(excess <= share)
        return int(below[0]) if len(below) else None

    return Rate(lr, reached(0.5), reached(0.1), float(losses[-1]) if np.isfinite(losses[-1]) else None)


def best_stable_rate(modes: Modes, moments: StepMoments, steps: int) -> tuple[float, float]:
    """The stable limit η*, and the best η below it.

    Best is the smallest mean loss after ``steps`` steps; of those that come within a thousandth of it, the one
    that sheds nine tenths first.
    """
    limit = stable_limit(modes, moments)
    finals = np.array([mean_losses(modes, moments, share * limit, [steps])[0] for share in SHARES])
    near = SHARES[finals <= 1.001 * finals.min()]
    if len(near) == 1:
        return limit, float(near[0] * limit)

    def shed(share: float) -> float:
        tenth = rate_at(modes, moments, share * limit, steps).tenth
        return float("inf") if tenth is None else tenth

    return limit, float(min(near, key=shed) * limit)
