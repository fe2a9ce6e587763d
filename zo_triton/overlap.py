"""How far K sign directions are from telling two elements apart: what all noise of an estimate is made of.

With signs ξ_kj the estimate of a gradient g is ĝ = C·g, C_ij = K⁻¹·Σ_k ξ_ki·ξ_kj. Its diagonal is 1; off it C has
mean 0, and each overlap C_ij is uncorrelated with all others but C_ji. So the second moments E C_ij² say everything
about squared errors (own derivation, confirmed by simulation):

* independent signs: 1/K;
* rows of a Hadamard matrix of order M (:mod:`zo_triton.hadamard`): 1 where the columns i and j are equal modulo
  M, as their entries then are; elsewhere (M - K)/(K(M - 1)), the mean over the choice of K rows, 0 for K = M.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def pair_overlap(num_directions: int, order: int | None = None) -> float:
    """E C_ij² of two elements in different columns modulo the order.

    Args:
        num_directions: K.
        order: M of ``hadamard`` directions, K ≤ M; None for independent signs.

    Returns:
        1/K, or (M - K)/(K(M - 1)).

    Raises:
        ValueError: K < 1, or M is no power of two of at least K.

    Example:
        >>> pair_overlap(4), pair_overlap(4, order=4), pair_overlap(4, order=16)
        (0.25, 0.0, 0.2)
    """
    check_order(num_directions, order)
    if order is None:
        return 1 / num_directions
    return (order - num_directions) / (num_directions * (order - 1)) if order > 1 else 0.0


def mean_overlap(elements: int, num_directions: int, order: int | None = None) -> float:
    """The mean of E C_ij² over all pairs of different elements, their columns being 0 … elements - 1.

    Args:
        elements: D, at least 1; for one there is no pair, and the value is 0.
        num_directions: K.
        order: M, or None for independent signs.

    Returns:
        The mean; with all rows, K = M, it is (D - M)/(M(D - 1)) where M divides D, and 0 for D ≤ M.

    Raises:
        ValueError: As :func:`pair_overlap`, or no element.
    """
    if elements < 1:
        raise ValueError(f"elements must be at least 1, got {elements}.")
    apart = pair_overlap(num_directions, order)
    if elements == 1:
        return 0.0
    if order is None:
        return apart
    full, rest = divmod(elements, order)
    # rest columns modulo M hold full + 1 elements, the others full.
    alike = rest * (full + 1) * full + (order - rest) * full * (full - 1)
    share = alike / (elements * (elements - 1))
    return share + (1 - share) * apart


def overlaps(
    columns: Sequence[int] | np.ndarray, num_directions: int, order: int | None = None
) -> np.ndarray:
    """E C_ij² of all pairs of elements, with zeros on the diagonal.

    Args:
        columns: Column index of each element, [D] integers.
        num_directions: K.
        order: M, or None for independent signs, whatever the columns.

    Returns:
        [D, D] float64, symmetric.

    Raises:
        ValueError: As :func:`pair_overlap`.
    """
    places = np.asarray(columns)
    found = np.full((len(places), len(places)), pair_overlap(num_directions, order))
    if order is not None:
        found[places[:, None] % order == places % order] = 1.0
    np.fill_diagonal(found, 0.0)
    return found


def check_order(num_directions: int, order: int | None) -> None:
    """Refuses numbers of directions and orders that do not go together.

    Raises:
        ValueError: They don't.
    """
    if num_directions < 1:
        raise ValueError(f"num_directions must be at least 1, got {num_directions}.")
    if order is not None and (order < num_directions or order & (order - 1)):
        raise ValueError(
            f"order must be a power of two of at least num_directions = {num_directions}, got {order}; the "
            f"smallest is {1 << (num_directions - 1).bit_length()}."
        )
