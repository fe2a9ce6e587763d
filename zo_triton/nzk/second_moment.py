"""How far single runs lie from the mean: the exact second moment of the residual, at any step.

With the numbers μ, α, β, γ of :mod:`zo_triton.nzk.fluctuation` the second moment S = E rrᵀ obeys a linear
recursion. Where γ = 0 (Gaussian, sphere) its diagonal in the NTK's eigenbasis obeys one of size n, a diagonal
matrix plus one of rank one: one eigendecomposition gives every t (own derivation, confirmed by simulation).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from zo_triton.nzk.arrays import as_matrix, as_vector
from zo_triton.nzk.evolution import check_lr, check_steps
from zo_triton.nzk.fluctuation import StepMoments, step_moments


def spread(
    f0: Any,
    y: Any,
    features: Any,
    lr: float,
    steps: Sequence[int],
    distribution: Any = "gaussian",
    coupling: str = "shared",
    num_directions: int = 1,
    kernel: str = "update",
    exact: bool = False,
) -> np.ndarray:
    """E|f_t - y|² over runs, at any list of steps; the mean loss is this over 2n.

    Args:
        f0: [n] outputs at step 0.
        y: [n] targets.
        features: X, [n, d]; one vector of i.i.d. coordinates perturbs all d.
        lr: Learning rate η > 0.
        steps: Which steps t ≥ 0, in any order.
        distribution: As in :func:`zo_triton.nzk.step_moments`.
        coupling: "shared" or "independent" vectors in the NZK.
        num_directions: K, averaged.
        kernel: "update" or "nzk".
        exact: Step through the whole second moment, O(n²·(n+d)) a step, where γ ≠ 0; otherwise diag(A) is
            replaced by its average, which is exact for Gaussian and sphere.

    Returns:
        [len(steps)] float64. Beyond the stable learning rate it grows without bound, in the end to inf.

    Raises:
        TypeError: A step is no integer.
        ValueError: Lengths differ, a step is negative, lr is not positive, or as
            :func:`zo_triton.nzk.step_moments`.
    """
    start, rows, counts = _check(f0, y, features, lr, steps)
    moments = step_moments(rows.shape[1], distribution, num_directions, coupling, kernel)
    if exact and moments.diagonal:
        traces = _at(counts, (np.trace(second) for second in second_moments(start, rows, lr, moments)))
        return np.array(traces)
    values, vectors = _modes(rows)
    rates, modes = np.linalg.eigh(eigenbasis_growth(values, lr, moments))
    weights = modes.T @ (vectors.T @ start) ** 2 * modes.sum(0)
    with np.errstate(over="ignore", invalid="ignore"):
        total = (1.0 + rates) ** counts[:, None] @ weights
    return np.where(np.isfinite(total), np.maximum(total, 0.0), np.inf)


def deviation(
    f0: Any,
    y: Any,
    features: Any,
    lr: float,
    steps: Sequence[int],
    distribution: Any = "gaussian",
    coupling: str = "shared",
    num_directions: int = 1,
    kernel: str = "update",
) -> np.ndarray:
    """Standard deviation of each output f_t over runs: the band around :func:`zo_triton.nzk.evolve`'s mean.

    In the NTK's eigenbasis the elements of S beside the diagonal decay on their own, each by
    1 - ημ(λ_i + λ_j) + η²αλ_iλ_j a step. Exact for Gaussian and sphere, averaged like :func:`spread` otherwise.

    Args:
        f0: [n] outputs at step 0.
        y: [n] targets.
        features: X, [n, d].
        lr: Learning rate η > 0, one at which the second moment stays within float64.
        steps: Which steps t ≥ 0, in any order.
        distribution: As in :func:`zo_triton.nzk.step_moments`.
        coupling: "shared" or "independent" vectors in the NZK.
        num_directions: K, averaged.
        kernel: "update" or "nzk".

    Returns:
        [len(steps), n] float64.

    Raises:
        TypeError: A step is no integer.
        ValueError: As :func:`spread`.
    """
    start, rows, counts = _check(f0, y, features, lr, steps)
    moments = step_moments(rows.shape[1], distribution, num_directions, coupling, kernel)
    values, vectors = _modes(rows)
    begun = vectors.T @ start
    rates, modes = np.linalg.eigh(eigenbasis_growth(values, lr, moments))
    pull = lr * moments.mean * values
    pairs = 1 - np.add.outer(pull, pull) + lr**2 * moments.same * np.outer(values, values)
    found = np.empty((len(counts), len(start)))
    for place, count in enumerate(counts.tolist()):
        second = pairs**count * np.outer(begun, begun)
        np.fill_diagonal(second, modes @ ((1 + rates) ** count * (modes.T @ begun**2)))
        mean = vectors @ ((1 - pull) ** count * begun)
        square = ((vectors @ second) * vectors).sum(1)
        found[place] = np.sqrt(np.maximum(square - mean**2, 0.0))
    return found


def second_moments(
    residual: np.ndarray, features: np.ndarray, lr: float, moments: StepMoments
) -> Iterator[np.ndarray]:
    """E r_t·r_tᵀ, [n, n], for t = 0, 1, 2, …: the exact recursion, without end.

    S ← S - (η/n)·μ·(NS + SN) + (η/n)²·(α·NSN + β·tr(NS)·N + γ·X·diag(XᵀSX)·Xᵀ) with N = XXᵀ.
    """
    ntk, rate = features @ features.T, lr / len(residual)
    second = np.outer(residual, residual)
    while True:
        yield second
        product = ntk @ second
        noise = moments.same * product @ ntk + moments.trace * np.trace(product) * ntk
        if moments.diagonal:
            diagonal = np.einsum("ik,ij,jk->k", features, second, features, optimize=True)
            noise += moments.diagonal * (features * diagonal) @ features.T
        # S and its step are symmetric; an antisymmetric rounding error would grow by a law of its own.
        second = second - rate * moments.mean * (product + product.T) + rate**2 * (noise + noise.T) / 2


def eigenbasis_growth(eigenvalues: np.ndarray, lr: float, moments: StepMoments) -> np.ndarray:
    """B - I, [m, m] symmetric, where s ← B·s is the step of s_i = E (q_i·r)² for the eigenvectors q_i.

    B = diag(1 - 2ημλ + η²αλ²) + η²β·λλᵀ with λ the eigenvalues of XXᵀ/n, β with γ/d averaged in.
    """
    own = -2 * lr * moments.mean * eigenvalues + lr**2 * moments.same * eigenvalues**2
    return np.diag(own) + lr**2 * moments.averaged_trace * np.outer(eigenvalues, eigenvalues)


def _check(
    f0: Any, y: Any, features: Any, lr: float, steps: Sequence[int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The first residual, the features and the steps."""
    targets, rows = as_vector(y, "y"), as_matrix(features, "features")
    if len(rows) != len(targets):
        raise ValueError(f"features has {len(rows)} rows, but y has {len(targets)} targets.")
    check_lr(lr)
    return as_vector(f0, "f0", len(targets)) - targets, rows, check_steps(steps)


def _modes(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues, none below zero, and eigenvectors of XXᵀ/n."""
    values, vectors = np.linalg.eigh(rows @ rows.T / len(rows))
    return np.maximum(values, 0.0), vectors


def _at(counts: np.ndarray, values: Iterator[Any]) -> list[float]:
    """The values at these places of a sequence without end."""
    found = dict.fromkeys(counts.tolist(), 0.0)
    for place, value in zip(range(int(counts.max()) + 1), values, strict=False):
        if place in found:
            found[place] = float(value)
    return [found[count] for count in counts.tolist()]
