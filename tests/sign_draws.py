"""Signs for tests, drawn by NumPy alone: independent ones, or rows of a Hadamard matrix chosen at random."""

import numpy as np


def hadamard(order: int) -> np.ndarray:
    """Sylvester's matrix, [M, M]."""
    matrix = np.ones((1, 1))
    while len(matrix) < order:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return matrix


def draw(generator, num, order, samples, columns, other_columns=()):
    """ξ [K, N, D] and the shared signs [K, d_w] of one step; ``order`` None for independent signs."""
    columns, others = np.asarray(columns), np.asarray(other_columns, dtype=int)
    shape, shared = (samples, len(columns)), (len(others),)
    if order is None:
        return signs(generator, (num, *shape)), signs(generator, (num, *shared))
    rows = hadamard(order)[generator.permutation(order)[:num]]
    own, rest = signs(generator, shape), signs(generator, shared)
    return own * rows[:, None, columns % order], rest * rows[:, others % order]


def signs(generator, shape):
    """±1, float64."""
    return generator.integers(0, 2, shape) * 2.0 - 1.0
