"""How the outputs of a model evolve in the mean: the closed form at any step, and its continuous limit.

With r = f - y and the loss (1/2n)|r|², each step walks r ← (I - (η/n)·K̂)·r. Where every step draws fresh vectors
and the features do not move (a linear model, or one linearised), E r_t = (I - (η/n)·K)ᵗ·r_0 with K = E K̂
(Zhang et al. 2026, arXiv 2603.21169, Theorem 1). The same formula with the NTK is first-order gradient descent.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from typing import Any

import numpy as np
from scipy.linalg import expm

from zo_triton.nzk.arrays import as_matrix, as_square, as_vector

SYMMETRY = 1e-10
"""How far a kernel may be from symmetric, relative to its largest element, to count as symmetric."""


def evolve(f0: Any, y: Any, kernel: Any, lr: float, steps: Sequence[int]) -> np.ndarray:
    """Mean outputs at any list of steps: y + (I - (lr/n)·K)ᵗ·(f0 - y).

    A symmetric kernel takes one eigendecomposition for all the steps. Any other (an empirical kernel with
    independent vectors is none) is raised to its powers by repeated squaring, which no defective or
    ill-conditioned eigenbasis can spoil.

    Args:
        f0: [n] outputs at step 0.
        y: [n] targets.
        kernel: [n, n], the expected kernel: of the NZK, of the update, or the NTK.
        lr: Learning rate η > 0.
        steps: Which steps t ≥ 0, in any order.

    Returns:
        [len(steps), n] float64.

    Raises:
        TypeError: A step is no integer, or an array holds no real numbers.
        ValueError: The kernel is not square, lengths differ, a step is negative, lr is not positive, or the
            mean leaves float64's range because lr is beyond the limit that the error names.

    Example:
        >>> import numpy as np
        >>> evolve([0.0, 0.0], [1.0, 1.0], np.eye(2), lr=1.0, steps=[0, 1, 2])
        array([[0.  , 0.  ],
               [0.5 , 0.5 ],
               [0.75, 0.75]])
    """
    y, residual, kernel = _check(f0, y, kernel)
    check_lr(lr)
    counts = check_steps(steps)
    rate = lr / len(y)
    with np.errstate(over="ignore", invalid="ignore"):
        if _is_symmetric(kernel):
            values, vectors = np.linalg.eigh(_symmetric_part(kernel))
            powers = (1.0 - rate * values) ** counts[:, None]
            residuals = (powers * (residual @ vectors)) @ vectors.T
        else:
            residuals = _powers(np.eye(len(y)) - rate * kernel, residual, counts)
    if not np.isfinite(residuals).all():
        largest = float(np.abs(np.linalg.eigvals(kernel)).max())
        raise ValueError(
            f"the mean evolution leaves float64's range by step {counts.max()} with lr {lr}; the kernel's "
            f"largest eigenvalue is {largest:.6g}, so lr must stay below 2n/λ = {2 * len(y) / largest:.6g}."
        )
    return y + residuals


def gradient_flow(f0: Any, y: Any, kernel: Any, lr: float, times: Sequence[float]) -> np.ndarray:
    """The limit of small steps: y + exp(-(lr/n)·K·t)·(f0 - y), t counted in steps.

    Args:
        f0: [n] outputs at time 0.
        y: [n] targets.
        kernel: [n, n] expected kernel.
        lr: Learning rate η > 0, so that t is comparable with :func:`evolve`'s.
        times: Which times t ≥ 0, real numbers in any order.

    Returns:
        [len(times), n] float64.

    Raises:
        TypeError: An array holds no real numbers.
        ValueError: The kernel is not square, lengths differ, a time is negative, or lr is not positive.
    """
    y, residual, kernel = _check(f0, y, kernel)
    check_lr(lr)
    moments = as_vector(times, "times")
    if moments.min() < 0:
        raise ValueError(f"times must not be negative, got {moments.min()}.")
    rate = lr / len(y)
    if _is_symmetric(kernel):
        values, vectors = np.linalg.eigh(_symmetric_part(kernel))
        decay = np.exp(-rate * values * moments[:, None])
        return y + (decay * (residual @ vectors)) @ vectors.T
    return y + np.stack([expm(-rate * time * kernel) @ residual for time in moments])


def losses(f: Any, y: Any) -> np.ndarray:
    """(1/2n)·|f_t - y|² of each row.

    Args:
        f: [T, n] outputs, one row a step.
        y: [n] targets.

    Returns:
        [T] float64.

    Raises:
        ValueError: The lengths differ.
    """
    outputs, targets = as_matrix(f, "f"), as_vector(y, "y")
    if outputs.shape[1] != len(targets):
        raise ValueError(f"f has {outputs.shape[1]} outputs a row, but y has {len(targets)}.")
    return ((outputs - targets) ** 2).sum(1) / (2 * len(targets))


def check_lr(lr: float) -> float:
    """Refuses a learning rate that is not a positive finite number.

    Raises:
        ValueError: It is not.
    """
    if not (isinstance(lr, (int, float, np.floating, np.integer)) and isfinite(lr) and lr > 0):
        raise ValueError(f"lr must be positive and finite, got {lr!r}.")
    return float(lr)


def check_steps(steps: Any) -> np.ndarray:
    """The steps as int64 [T].

    Raises:
        TypeError: A step is no integer.
        ValueError: There is none, or one is negative.
    """
    counts = np.asarray(steps)
    if counts.ndim != 1 or counts.size == 0:
        raise ValueError(f"steps must be a list of at least one step, got {steps!r}.")
    if counts.dtype.kind not in "iu":
        raise TypeError(f"steps must be integers, got {steps!r}; gradient_flow takes real times.")
    if counts.min() < 0:
        raise ValueError(f"steps must not be negative, got {counts.min()}.")
    return counts.astype(np.int64)


def _check(f0: Any, y: Any, kernel: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    targets = as_vector(y, "y")
    start = as_vector(f0, "f0", len(targets))
    return targets, start - targets, as_square(kernel, "kernel", len(targets))


def _is_symmetric(kernel: np.ndarray) -> bool:
    return bool(np.abs(kernel - kernel.T).max() <= SYMMETRY * np.abs(kernel).max())


def _symmetric_part(kernel: np.ndarray) -> np.ndarray:
    return (kernel + kernel.T) / 2


def _powers(matrix: np.ndarray, vector: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """matrixᵗ·vector for each t, from the binary powers of the matrix."""
    squares = [matrix]
    found = {}
    current, done = vector, 0
    for count in np.unique(counts):
        left, bit = int(count) - done, 0
        while left >> bit:
            if bit == len(squares):
                squares.append(squares[-1] @ squares[-1])
            if left >> bit & 1:
                current = squares[bit] @ current
            bit += 1
        done = int(count)
        found[done] = current
    return np.stack([found[int(count)] for count in counts])
