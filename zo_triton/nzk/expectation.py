"""The kernel that a zeroth-order step has in the mean, in closed form.

With the gradients of n outputs as rows of X [n, d], K random vectors ζ_k and z_k, and P = ZXᵀ:

* ``nzk``:    K̂ = K⁻² Σ_{k,l} (x_i·ζ_k)(ζ_k·z_l)(z_l·x_j), both gradients estimated,
* ``update``: K̂ = K⁻¹ Σ_k (x_i·z_k)(z_k·x_j), that of θ ← θ − η(z·∇L)z.

Every mean below has the form Σ_t a_t·X_tX_tᵀ + b·(X1)(X1)ᵀ with X_t the columns of tensor t.

Source: arXiv 2603.21169 (Theorem 1, Corollary 2) for the Gaussian; other distributions, averages over
directions, low rank and several tensors are own derivations, each checked by simulation.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from zo_triton.directions import matrix_shape
from zo_triton.nzk.arrays import COUPLINGS, KERNELS, as_matrix, check_choice, check_count, check_shapes
from zo_triton.nzk.coordinate_moments import Moments, check_separate, moments

_Form = tuple[np.ndarray, float]
"""a_t of each tensor, [T], and b: the matrix that has a_t on tensor t's diagonal, plus b everywhere."""


def expected(
    features: Any,
    distribution: Any = "gaussian",
    coupling: str = "shared",
    num_directions: int = 1,
    kernel: str = "nzk",
    rank: int | None = None,
    shapes: Sequence[Sequence[int]] | None = None,
) -> np.ndarray:
    """E K̂ over the random vectors.

    For i.i.d. coordinates with raw moments m₁…m₄, variance σ² and S = σ²I + m₁²11ᵀ:

    * ``update``: X S Xᵀ;
    * ``nzk``, independent: X S² Xᵀ;
    * ``nzk``, shared: X M Xᵀ/K + (1 − 1/K) X S² Xᵀ, where M has m₄ + (d−1)m₂² on its diagonal and
      2m₃m₁ + (d−2)m₁²m₂ beside it. Zero mean: σ⁴(d + K − 2 + κ)/K times the NTK XXᵀ.

    ``sphere`` has S = I and M = d·I. Factors of rank r: see :func:`factor`. With several tensors, one of
    them with factors, tensor t has its own factor plus σ_t² Σ_{u≠t} σ_u²d_u.

    Args:
        features: X [n, d]: inputs of a linear model, or the Jacobian of a network's outputs.
        distribution: What :func:`zo_triton.nzk.moments` takes, or ``sphere``.
        coupling: ``shared`` (ζ = z) or ``independent``; without meaning for the ``update`` kernel, which has
            one set of vectors.
        num_directions: K.
        kernel: ``nzk`` or ``update``.
        rank: r of each matrix's directions A·Bᵀ/√r, entries of A and B from ``distribution``; vectors stay
            full. Needs ``shapes`` and a zero mean.
        shapes: The tensors that the columns belong to, in order; None for one vector.

    Returns:
        float64 [n, n], symmetric.

    Raises:
        TypeError: An argument is of the wrong kind.
        ValueError: An argument is out of range; low rank with a nonzero mean, or on a sphere through several
            tensors, for which there is no closed form here.

    Example:
        >>> from zo_triton.nzk import expected
        >>> expected([[3.0, 4.0]])
        array([[100.]])
        >>> expected([[3.0, 4.0]], "rademacher", num_directions=2)
        array([[37.5]])
    """
    matrix = as_matrix(features, "features")
    tensors = check_shapes(shapes, rank, matrix.shape[1])
    own, ones = _coefficients(tensors, distribution, coupling, num_directions, kernel, rank)
    sizes = [prod(shape) for shape in tensors]
    weighted = matrix * np.repeat(own, sizes)
    result = weighted @ matrix.T
    # One rounding for both triangles: BLAS may sum them in different orders.
    result = (result + result.T) / 2
    if ones:
        sums = matrix.sum(axis=1)
        result += ones * np.outer(sums, sums)
    return result


def factor(
    size: int,
    distribution: Any = "gaussian",
    coupling: str = "shared",
    num_directions: int = 1,
    kernel: str = "nzk",
    rank: int | None = None,
    shape: Sequence[int] | None = None,
) -> float:
    """The number that E K̂ is a multiple of the NTK by, for directions of zero mean through one tensor.

    With variance σ² and kurtosis κ: ``update`` σ²; ``nzk`` independent σ⁴; ``nzk`` shared
    σ⁴(d + K − 2 + κ)/K, for K = 1 and a Gaussian d + 2. An m×n matrix with factors of rank r has entries of
    variance σ⁴, and shared with K = 1 its factor is σ⁸[(m−1+κ)(n−1+κ) + (r−1)(mn+2)]/r, for a Gaussian
    mn + 2 + (2m + 2n + 2)/r.

    Args:
        size: d.
        distribution: As in :func:`expected`.
        coupling: ``shared`` or ``independent``.
        num_directions: K.
        kernel: ``nzk`` or ``update``.
        rank: Rank of the directions' factors; needs ``shape``.
        shape: The tensor's shape.

    Returns:
        The factor.

    Raises:
        TypeError: An argument is of the wrong kind.
        ValueError: As :func:`expected`, or the mean is not zero: E K̂ is then no multiple of the NTK.

    Example:
        >>> from zo_triton.nzk import factor
        >>> [factor(50, name) for name in ("rademacher", "gaussian", "laplace")]
        [50.0, 52.0, 55.0]
    """
    tensors = check_shapes(None if shape is None else [shape], rank, check_count(size, "size"))
    if not _is_sphere(distribution):
        coordinate = moments(distribution)
        if not coordinate.centred:
            raise ValueError(
                f"with mean {coordinate.mean} the expected kernel is no multiple of the NTK; use expected, which "
                "gives the whole matrix."
            )
    own, _ = _coefficients(tensors, distribution, coupling, num_directions, kernel, rank)
    return float(own[0])


def _coefficients(
    tensors: Sequence[tuple[int, ...]],
    distribution: Any,
    coupling: str,
    num_directions: int,
    kernel: str,
    rank: int | None,
) -> _Form:
    """a_t of each tensor, [T], and b, of Σ_t a_t·X_tX_tᵀ + b·(X1)(X1)ᵀ."""
    check_choice(coupling, "coupling", COUPLINGS)
    check_choice(kernel, "kernel", KERNELS)
    count = check_count(num_directions, "num_directions")
    if isinstance(distribution, str) and distribution == "hadamard":
        check_separate(kernel, coupling, count)
    factored = [rank is not None and len(shape) >= 2 for shape in tensors]
    if _is_sphere(distribution):
        if any(factored) and len(tensors) > 1:
            raise ValueError(
                f"no closed form for 'sphere' with rank {rank} through {len(tensors)} tensors: their shares "
                "of the length are random; use 'gaussian', or zo.nzk.empirical."
            )
        second, fourth = _sphere(tensors)
    elif any(factored):
        second, fourth = _factors(tensors, factored, moments(distribution), rank or 1)
    else:
        second, fourth = _independent_coordinates(tensors, moments(distribution))
    if kernel == "update":
        return second
    # S², by (aI + b11ᵀ)² = a²I + (2ab + b²d)11ᵀ; b is zero wherever the a_t differ.
    size = sum(prod(shape) for shape in tensors)
    own, ones = second
    squared = own**2, 2 * float(own[0]) * ones + ones**2 * size
    if coupling == "independent":
        return squared
    share = 1 / count
    return share * fourth[0] + (1 - share) * squared[0], share * fourth[1] + (1 - share) * squared[1]


def _is_sphere(distribution: Any) -> bool:
    return isinstance(distribution, str) and distribution == "sphere"


def _independent_coordinates(tensors: Sequence[tuple[int, ...]], m: Moments) -> tuple[_Form, _Form]:
    """E zzᵀ and E |z|²zzᵀ for i.i.d. coordinates of any mean."""
    every, size = np.ones(len(tensors)), sum(prod(shape) for shape in tensors)
    diagonal = m.m4 + (size - 1) * m.m2**2
    beside = 0.0 if m.centred or size == 1 else 2 * m.m3 * m.m1 + (size - 2) * m.m1**2 * m.m2
    square = 0.0 if m.centred else m.m1**2
    return (m.variance * every, square), ((diagonal - beside) * every, beside)


def _sphere(tensors: Sequence[tuple[int, ...]]) -> tuple[_Form, _Form]:
    """The same on a sphere of radius √d, where |z|² = d: by symmetry E zzᵀ = I."""
    every, size = np.ones(len(tensors)), sum(prod(shape) for shape in tensors)
    return (every, 0.0), (size * every, 0.0)


def _factors(
    tensors: Sequence[tuple[int, ...]], factored: Sequence[bool], m: Moments, rank: int
) -> tuple[_Form, _Form]:
    """The same where some tensors are A·Bᵀ/√r.

    E|U|²U_ij² is a sum over (a, b, c, e) of E[(A_a·A_b)A_ic A_ie]·E[(B_a·B_b)B_jc B_je]/r², not zero only
    where the four columns coincide (r terms), pair as a=b≠c=e (r(r−1) terms, mn each), or as {a,b} = {c,e},
    a≠b (2r(r−1) terms, 1 each).
    """
    if not m.centred:
        raise ValueError(
            f"low rank needs directions of mean zero, got mean {m.mean}; subtract it, or use full rank."
        )
    variance, own = np.empty(len(tensors)), np.empty(len(tensors))
    sizes = np.array([prod(shape) for shape in tensors], dtype=np.float64)
    kurtosis = m.m4 / m.m2**2 if m.m2 else 0.0
    for t, shape in enumerate(tensors):
        if not factored[t]:
            variance[t], own[t] = m.m2, m.m2**2 * (sizes[t] - 1 + kurtosis)
            continue
        rows, cols = matrix_shape(shape)
        coincide = (rows - 1 + kurtosis) * (cols - 1 + kurtosis)
        variance[t] = m.m2**2
        own[t] = m.m2**4 * (coincide + (rank - 1) * (rows * cols + 2)) / rank
    lengths = variance * sizes
    return (variance, 0.0), (own + variance * (lengths.sum() - lengths), 0.0)
