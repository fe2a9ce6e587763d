"""A labelled data set in memory, and the seeded stratified split that makes one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Dataset:
    """Training and test examples of a classification task.

    Args:
        name: How reports call it.
        train_x: [n, features] float32.
        train_y: [n] int64 class indices.
        test_x: [m, features] float32.
        test_y: [m] int64 class indices.
    """

    name: str
    train_x: np.ndarray
    train_y: np.ndarray
    test_x: np.ndarray
    test_y: np.ndarray

    def validation(self, fraction: float = 0.2, seed: int = 0) -> Dataset:
        """The training examples alone, split again: for tuning that never sees the test examples."""
        kept, held = stratified_split(self.train_y, fraction, seed)
        x, y = self.train_x, self.train_y
        return Dataset(f"{self.name} (validation)", x[kept], y[kept], x[held], y[held])


def stratified_split(labels: np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Splits examples in two so that every class gives the same share to the second part.

    Args:
        labels: [n] class indices.
        fraction: Share of the second part, between 0 and 1.
        seed: Non-negative integer; the same seed gives the same split.

    Returns:
        Two disjoint sorted index arrays that together cover ``range(n)``.

    Raises:
        TypeError: The seed is not an integer.
        ValueError: The fraction is not strictly between 0 and 1, the seed is negative, or a class is too
            small to stand in both parts.
    """
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)):
        raise TypeError(f"seed must be an int, got {seed!r} of type {type(seed).__name__}.")
    if seed < 0:
        raise ValueError(f"seed must be non-negative, got {seed}.")
    if not 0.0 < fraction < 1.0:
        raise ValueError(f"fraction must lie strictly between 0 and 1, got {fraction}.")
    generator = np.random.default_rng(seed)
    second: list[np.ndarray] = []
    for label in np.unique(labels):
        members = generator.permutation(np.flatnonzero(labels == label))
        count = round(fraction * len(members))
        if not 0 < count < len(members):
            raise ValueError(
                f"fraction {fraction} leaves a part without class {label}, which has {len(members)} "
                "examples; choose a fraction nearer to one half."
            )
        second.append(members[:count])
    chosen = np.sort(np.concatenate(second))
    return np.setdiff1d(np.arange(len(labels)), chosen), chosen
