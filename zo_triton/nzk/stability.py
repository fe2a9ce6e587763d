"""The largest stable learning rate η*: where the second moment of a zeroth-order run stops growing.

On a quadratic with Hessian eigenvalues λ the mean may shrink while the second moment, fed by the noise of the
random directions, grows without bound. η* is where it does neither ("mean-square stability", arXiv 2604.14669 for
one Gaussian direction). With the numbers μ, α, β of :func:`zo_triton.nzk.fluctuation.step_moments` and momentum b

    Σ_i ηβλ_i / (2(1-b)μ - ηλ_i·(α - 2bμ²/(1+b))) = 1,

(own derivation; for one Gaussian direction without momentum Σ ηλ/(2(1-ηλ)) = 1). K → ∞ gives the heavy ball's
2(1+b)/λ_max. For the loss (1/2n)|f - y|² of a linear model λ are the eigenvalues of XXᵀ/n, or of XᵀX/n.
"""

from __future__ import annotations

from math import isfinite
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import brentq, minimize_scalar

from zo_triton.nzk.arrays import as_square, as_vector, check_count
from zo_triton.nzk.evolution import check_lr
from zo_triton.nzk.fluctuation import StepMoments, step_moments
from zo_triton.nzk.function_space import check_momentum
from zo_triton.nzk.second_moment import eigenbasis_growth


def max_stable_lr(
    eigenvalues: Any,
    num_directions: int = 1,
    coupling: str = "shared",
    kernel: str = "update",
    size: int | None = None,
    distribution: Any = "gaussian",
    momentum: float = 0.0,
) -> float:
    """η*, the mean-square limit of the learning rate.

    Exact for Gaussian and sphere directions. For others the term γ·diag(A) is replaced by its average γ/d·tr(A):
    for d = 12 and 50 within 3.5 % of the truth where the Hessian's eigenvectors point anywhere. Where they are
    the coordinate axes and one eigenvalue dominates, signs bear up to 23 % more and Laplace up to 25 % less.

    Args:
        eigenvalues: λ ≥ 0 of the Hessian, for a linear model those of NTK/n, [m]; zeros may be left out.
        num_directions: K, averaged.
        coupling: "shared" or "independent" vectors in the NZK.
        kernel: "update" (ordinary ZO-SGD) or "nzk".
        size: d; not needed for the update kernel with Gaussian directions.
        distribution: As in :func:`zo_triton.nzk.fluctuation.step_moments`.
        momentum: b in [0, 1), as in torch's SGD without dampening.

    Returns:
        η*; inf if every eigenvalue is zero.

    Raises:
        TypeError: A count is no integer, or momentum no number.
        ValueError: An eigenvalue is negative beyond rounding, there are more nonzero ones than ``size``,
            momentum is not in [0, 1), or as :func:`zo_triton.nzk.fluctuation.step_moments`.

    Example:
        >>> round(max_stable_lr([1.0], num_directions=1), 6)  # 3 coordinates of E z⁴: 2/3
        0.666667
    """
    check_momentum(momentum)
    values = _nonzero(eigenvalues, size)
    moments = step_moments(size, distribution, num_directions, coupling, kernel)
    if len(values) == 0:
        return float("inf")
    return _limit(values, moments, momentum)


def max_stable_lr_preconditioned(
    hessian: Any,
    preconditioner: Any,
    num_directions: int = 1,
    momentum: float = 0.0,
    distribution: Any = "gaussian",
) -> float:
    """η* of θ ← θ - η·D·v with a fixed diagonal D: Adam or RMSprop with their second moments frozen.

    D changes the Hessian to D^{1/2}·H·D^{1/2} = UΛUᵀ in the mean, but the noise enters as D·zzᵀ, which is not
    symmetric in those coordinates: its modes couple through C = (UᵀD⁻¹U)∘(UᵀDU). Own derivation:

        Σ_ij ηβλ_iλ_j·C_ij / ((1-b)μ·(λ_i+λ_j) - η·(αλ_iλ_j + bμ²(2λ_iλ_j - (λ_i+λ_j)²/(1+b))/(1-b))) = 1.

    Args:
        hessian: H, [d, d], symmetric and positive semidefinite.
        preconditioner: Diagonal of D, [d], all positive; for Adam 1/(√v + ε).
        num_directions: K, averaged, of the update kernel.
        momentum: b in [0, 1), v ← b·v + ĝ. Adam's average (1-b)·ĝ stands a limit 1/(1-b) times as large.
        distribution: As in :func:`max_stable_lr`, with the same approximation unless Gaussian or sphere.

    Returns:
        η*; inf if the Hessian is zero.

    Raises:
        TypeError: As :func:`max_stable_lr`.
        ValueError: H is not square and symmetric, D has another length or an element that is not positive, or
            as :func:`max_stable_lr`.
    """
    matrix = as_square(hessian, "hessian")
    size = len(matrix)
    scale = as_vector(preconditioner, "preconditioner", size)
    if np.abs(matrix - matrix.T).max() > 1e-10 * np.abs(matrix).max():
        raise ValueError("hessian must be symmetric; pass (H + Hᵀ)/2.")
    if scale.min() <= 0:
        raise ValueError(f"preconditioner must be positive, got {scale.min()}.")
    check_momentum(momentum)
    moments = step_moments(size, distribution, num_directions)
    roots = np.sqrt(scale)
    values, vectors = np.linalg.eigh(roots[:, None] * matrix * roots)
    _nonzero(values, size)
    keep = values > _rounding(values)
    if not keep.any():
        return float("inf")
    values, vectors = values[keep], vectors[:, keep]
    weights = (vectors.T / scale @ vectors) * (vectors.T * scale @ vectors)
    products, sums = np.outer(values, values), np.add.outer(values, values)
    drag = moments.same * products
    if momentum:
        mixed = 2 * products - sums**2 / (1 + momentum)
        drag = drag + momentum * moments.mean**2 * mixed / (1 - momentum)
    pull = (1 - momentum) * moments.mean * sums
    return _root(moments.averaged_trace * products * weights, pull, drag, values.max(), moments, momentum)


def lr_bounds(
    trace: float,
    largest: float,
    num_directions: int = 1,
    coupling: str = "shared",
    kernel: str = "update",
    size: int | None = None,
    distribution: Any = "gaussian",
    momentum: float = 0.0,
) -> tuple[float, float]:
    """Bounds on η* from the Hessian's trace and largest eigenvalue.

    The lower one is P/(β·Tr + Q·λmax), the upper one the smaller of P/(β·Tr), by the noise of all modes, and
    P/((β + Q)·λmax), by the largest mode alone. P = 2(1-b)μ, and Q = α - 2bμ²/(1+b) is never negative. For one
    Gaussian direction without momentum arXiv 2604.14669 has 2/(Tr + 2λmax) and 2/Tr; the other is 2/(3λmax). With
    estimates of the two they serve where the spectrum is too large (:func:`zo_triton.nzk.hutchinson_trace`,
    :func:`zo_triton.nzk.largest_eigenvalue`).

    Args:
        trace: Tr H > 0.
        largest: λmax, 0 < λmax ≤ Tr H.
        num_directions: K, averaged.
        coupling: As in :func:`max_stable_lr`.
        kernel: As in :func:`max_stable_lr`.
        size: As in :func:`max_stable_lr`.
        distribution: As in :func:`max_stable_lr`.
        momentum: As in :func:`max_stable_lr`.

    Returns:
        The lower and the upper bound.

    Raises:
        TypeError: As :func:`max_stable_lr`.
        ValueError: Not 0 < λmax ≤ Tr H, momentum is not in [0, 1), or as
            :func:`zo_triton.nzk.fluctuation.step_moments`.
    """
    if not (isfinite(trace) and 0 < largest <= trace * (1 + 1e-9)):
        raise ValueError(f"needs 0 < largest <= trace, got largest {largest} and trace {trace}.")
    check_momentum(momentum)
    moments = step_moments(size, distribution, num_directions, coupling, kernel)
    trace, noise = max(trace, largest), moments.averaged_trace
    pull, drag = 2 * (1 - momentum) * moments.mean, _drag(moments, momentum)
    alone = pull / ((noise + drag) * largest)
    if noise <= 0:
        return alone, alone
    return pull / (noise * trace + drag * largest), min(pull / (noise * trace), alone)


def check_stable(
    lr: float,
    eigenvalues: Any,
    num_directions: int = 1,
    coupling: str = "shared",
    kernel: str = "update",
    size: int | None = None,
    distribution: Any = "gaussian",
    momentum: float = 0.0,
    allow_unstable: bool = False,
) -> float:
    """Says before a run whether its learning rate is beyond η*.

    Args:
        lr: Learning rate η > 0.
        eigenvalues: As in :func:`max_stable_lr`, like everything that follows.
        num_directions: K.
        coupling: "shared" or "independent".
        kernel: "update" or "nzk".
        size: d.
        distribution: Of the directions.
        momentum: b.
        allow_unstable: Return the limit instead of raising, for runs that are meant to diverge.

    Returns:
        η*.

    Raises:
        ValueError: lr is not positive, or not below η*; the error names the limit.
    """
    check_lr(lr)
    limit = max_stable_lr(eigenvalues, num_directions, coupling, kernel, size, distribution, momentum)
    if lr >= limit and not allow_unstable:
        raise ValueError(
            f"lr {lr:.6g} is unstable: the second moment of the run grows from lr {limit:.6g} on (kernel "
            f"{kernel!r}, {coupling} vectors, {num_directions} direction(s)); lower lr, average more directions, "
            "or pass allow_unstable=True."
        )
    return limit


class BestRate(NamedTuple):
    """A method at its own best stable learning rate; see :func:`best_rate`.

    Attributes:
        limit: η*.
        limit_step: μ·η*, the step of the mean dynamics at the limit, in units of first-order descent's lr.
        lr: The η that shrinks E|r|² fastest in the long run.
        step: μ·lr.
        log_decay: ln of the factor by which E|r|² shrinks a step at that η, negative.
    """

    limit: float
    limit_step: float
    lr: float
    step: float
    log_decay: float


def best_rate(
    eigenvalues: Any,
    num_directions: int = 1,
    coupling: str = "shared",
    kernel: str = "update",
    size: int | None = None,
    distribution: Any = "gaussian",
) -> BestRate:
    """The honest comparison of methods: each at its own best learning rate instead of at an equal one.

    With Gaussian vectors and K = 1 the shared NZK has η* = η*_update·(d+2)/((d+4)(d+6)) and so walks a step
    μη* = (d+2)²/((d+4)(d+6)) of the update kernel's: its "acceleration" by d+2 is all but spent. Independent
    vectors, whose β is d+4 and not 1, walk about d times slower.

    Args:
        eigenvalues: λ ≥ 0 of the Hessian, for a linear model those of NTK/n; zeros don't count.
        num_directions: K.
        coupling: "shared" or "independent".
        kernel: "update" or "nzk".
        size: d.
        distribution: Of the directions.

    Returns:
        The limit, the best learning rate, and how fast each moves.

    Raises:
        ValueError: As :func:`max_stable_lr`, or every eigenvalue is zero.
    """
    values = _nonzero(eigenvalues, size)
    if len(values) == 0:
        raise ValueError("every eigenvalue is zero: there is nothing to learn, so no rate is best.")
    moments = step_moments(size, distribution, num_directions, coupling, kernel)
    limit = _limit(values, moments, 0.0)

    def growth(share: float) -> float:
        return float(np.linalg.eigvalsh(eigenbasis_growth(values, share * limit, moments))[-1])

    # The largest eigenvalue is the maximum of convex quadratics of η, so it has a single minimum.
    share = float(minimize_scalar(growth, bounds=(0.0, 1.0), method="bounded").x)
    lr = share * limit
    shrinking = growth(share)
    log_decay = float(np.log1p(shrinking)) if shrinking > -1 else float("-inf")
    return BestRate(limit, moments.mean * limit, lr, moments.mean * lr, log_decay)


def _rounding(values: np.ndarray) -> float:
    """Below it an eigenvalue of a matrix of this many is rounding."""
    return max(len(values), 100) * np.finfo(np.float64).eps * float(np.abs(values).max())


def _nonzero(eigenvalues: Any, size: int | None) -> np.ndarray:
    """The eigenvalues that are positive beyond rounding, at most ``size`` of them."""
    values = as_vector(eigenvalues, "eigenvalues")
    rounding = _rounding(values)
    if values.min() < -rounding:
        raise ValueError(
            f"eigenvalues must not be negative, got {values.min():.6g} beside a largest of {values.max():.6g}; the "
            "stability of a step is known only where the loss curves upward."
        )
    values = values[values > rounding]
    if size is not None and len(values) > check_count(size, "size"):
        raise ValueError(f"{len(values)} nonzero eigenvalues can't come from {size} parameters.")
    return values


def _single_mode_limit(largest: float, moments: StepMoments, momentum: float) -> float:
    """Where the largest eigenvalue's own denominator vanishes."""
    return 2 * (1 - momentum) * moments.mean / (largest * _drag(moments, momentum))


def _limit(values: np.ndarray, moments: StepMoments, momentum: float) -> float:
    pull, drag = np.full(len(values), 2 * (1 - momentum) * moments.mean), _drag(moments, momentum) * values
    return _root(moments.averaged_trace * values, pull, drag, values.max(), moments, momentum)


def _drag(moments: StepMoments, momentum: float) -> float:
    """α - 2bμ²/(1+b): a mode's own noise, which its pull must outweigh."""
    return moments.same - 2 * momentum * moments.mean**2 / (1 + momentum)


def _root(
    noise: np.ndarray,
    pull: np.ndarray,
    drag: np.ndarray,
    largest: float,
    moments: StepMoments,
    momentum: float,
) -> float:
    """The η where Σ η·noise/(pull - η·drag) = 1; the sum grows with η up to its pole, the largest mode's limit."""
    if moments.averaged_trace <= 0:
        # One dimension, or signs in two: no mode's noise reaches the others, and in one it lessens its own.
        alone = moments._replace(same=moments.same + moments.averaged_trace)
        return _single_mode_limit(largest, alone, momentum)

    def excess(eta: float) -> float:
        return float(np.sum(eta * noise / (pull - eta * drag))) - 1.0

    top = _single_mode_limit(largest, moments, momentum)
    return float(brentq(excess, 0.0, top * (1 - 1e-12), xtol=1e-300, rtol=1e-13))
