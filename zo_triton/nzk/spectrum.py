"""Trace and largest eigenvalue of a matrix that is too large to form, from products with it."""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt
from typing import Any, NamedTuple

import numpy as np
from scipy.sparse.linalg import LinearOperator, eigsh

from zo_triton.nzk.arrays import as_vector, check_count


class TraceEstimate(NamedTuple):
    """A trace and the standard error of its estimate."""

    value: float
    standard_error: float


def hutchinson_trace(
    matvec: Callable[[np.ndarray], Any], size: int, num: int = 32, seed: int = 0
) -> TraceEstimate:
    """Tr A ≈ mean of zᵀAz over random signs z (Hutchinson 1989), from products with A alone.

    Args:
        matvec: v [size] float64 → A·v [size], any array or tensor.
        size: d.
        num: Probes, at least 2.
        seed: Of the probes.

    Returns:
        The estimate and its standard error; the error is 0 for a diagonal matrix.

    Raises:
        TypeError: A count is no integer.
        ValueError: Fewer than 2 probes, or matvec returns another length.
    """
    check_count(size, "size")
    check_count(num, "num", 2)
    generator = np.random.default_rng(seed)
    probes = generator.integers(0, 2, (num, size)) * 2.0 - 1.0
    found = np.array([probe @ as_vector(matvec(probe), "matvec's result", size) for probe in probes])
    return TraceEstimate(float(found.mean()), float(found.std(ddof=1)) / sqrt(num))


def largest_eigenvalue(matvec: Callable[[np.ndarray], Any], size: int, seed: int = 0) -> float:
    """λmax of a symmetric positive semidefinite matrix from products with it (ARPACK).

    Args:
        matvec: v [size] float64 → A·v [size], any array or tensor.
        size: d.
        seed: Of the start vector.

    Returns:
        λmax, to about six digits.

    Raises:
        TypeError: ``size`` is no integer.
        ValueError: matvec returns another length.
    """
    check_count(size, "size")

    def product(vector: np.ndarray) -> np.ndarray:
        return as_vector(matvec(vector.reshape(-1)), "matvec's result", size)

    if size < 4:  # ARPACK wants room between the number of eigenvalues and the size.
        dense = np.stack([product(column) for column in np.eye(size)])
        return float(np.linalg.eigvalsh((dense + dense.T) / 2)[-1])
    start = np.random.default_rng(seed).standard_normal(size)
    operator = LinearOperator((size, size), matvec=product, dtype=np.float64)
    return float(eigsh(operator, k=1, which="LA", v0=start, tol=1e-6, return_eigenvectors=False)[0])
