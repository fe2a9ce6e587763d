"""A labelled data set in memory, and the seeded stratified split that makes one."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from zo_triton.data.arguments import check_classes, check_integer

WHITE = 255
"""The brightest value of a byte pixel; every loader divides by it."""


@dataclass(frozen=True)
class Dataset:
    """Training and test examples of a classification task.

    Args:
        name: How reports call it.
        train_x: [n, features] float32.
        train_y: [n] int64 class indices.
        test_x: [m, features] float32.
        test_y: [m] int64 class indices.
        shape: (channels, height, width) of one example, whose features are laid out channel first, then row
            by row; empty where the examples are no images.

    Raises:
        ValueError: The shape does not hold as many values as an example has features.
    """

    name: str
    train_x: np.ndarray
    train_y: np.ndarray
    test_x: np.ndarray
    test_y: np.ndarray
    shape: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        features = self.train_x.shape[-1]
        if self.shape and math.prod(self.shape) != features:
            raise ValueError(
                f"shape {self.shape} of {self.name} holds {math.prod(self.shape)} values, but its examples "
                f"have {features}; pass the shape of one example, or () for what is no image."
            )

    def standardized(self) -> Dataset:
        """Every feature less its mean, all of them over one standard deviation, both of the training examples."""
        mean = self.train_x.mean(0)
        deviation = max(float(np.std(self.train_x - mean)), float(np.finfo(np.float32).tiny))
        train_x, test_x = ((x - mean) / np.float32(deviation) for x in (self.train_x, self.test_x))
        return replace(self, train_x=train_x, test_x=test_x)

    def validation(self, fraction: float = 0.2, seed: int = 0) -> Dataset:
        """The training examples alone, split again: for tuning that never sees the test examples."""
        kept, held = stratified_split(self.train_y, fraction, seed)
        x, y = self.train_x, self.train_y
        return Dataset(f"{self.name} (validation)", x[kept], y[kept], x[held], y[held], self.shape)


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
    check_integer(seed, "seed", 0)
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


def select(labels: np.ndarray, classes: Iterable[int] | None, limit: int | None) -> np.ndarray | slice:
    """Where the examples of some classes stand, at most ``limit`` of each: the first ones, in stored order.

    Args:
        labels: [n] class indices.
        classes: The classes wanted, or None for all.
        limit: How many of each class at most, or None for all.

    Returns:
        A sorted index array; the full slice, which copies nothing, if everything is wanted.
    """
    if classes is None and limit is None:
        return slice(None)
    wanted = np.unique(labels) if classes is None else classes
    return np.sort(np.concatenate([np.flatnonzero(labels == label)[:limit] for label in wanted]))


def check_selection(
    classes: Iterable[int] | None, limit: int | None, title: str, count: int
) -> tuple[int, ...] | None:
    """Checks the two arguments that every loader takes, and returns the classes as a tuple.

    Raises:
        TypeError: A class or the limit is not an integer.
        ValueError: A class is out of range or named twice, or the limit is below 1.
    """
    if limit is not None:
        check_integer(limit, "limit", 1)
    return None if classes is None else check_classes(classes, title, count)


def from_pixels(
    name: str,
    shape: tuple[int, ...],
    parts: tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]],
    classes: Iterable[int] | None = None,
    limit: int | None = None,
) -> Dataset:
    """Makes a data set from byte images; only the examples kept are ever turned into floats.

    Args:
        name: How reports call it.
        shape: (channels, height, width).
        parts: Training and test part, each (pixels [n, features] uint8, labels [n]).
        classes: The classes to keep, checked, or None for all.
        limit: How many training and how many test examples of each class at most, or None for all.
    """
    train, test = (_part(pixels, labels, classes, limit) for pixels, labels in parts)
    return Dataset(name, *train, *test, shape)


def _part(
    pixels: np.ndarray, labels: np.ndarray, classes: Iterable[int] | None, limit: int | None
) -> tuple[np.ndarray, np.ndarray]:
    kept = select(labels, classes, limit)
    x = pixels[kept].astype(np.float32)
    x /= WHITE
    return x, labels[kept].astype(np.int64)
