"""The handwritten digits that ship with scikit-learn: 1797 grey images of 8×8 pixels, ten classes.

Source: E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI repository, 1998 (its test
part, as distributed with scikit-learn). Nothing is downloaded.
"""

from __future__ import annotations

import numpy as np

from zo_triton.data.dataset import Dataset, stratified_split

SHAPE = (1, 8, 8)
NUM_CLASSES = 10
MAX_INTENSITY = 16.0
"""A pixel counts the dark points in a 4×4 cell."""


def digits(seed: int = 0, test_fraction: float = 0.2) -> Dataset:
    """Loads the digits, scaled to [0, 1], with a stratified split.

    Args:
        seed: Of the split; non-negative.
        test_fraction: Share of the test examples, strictly between 0 and 1.

    Returns:
        64 features an example; with the default fraction 1438 training and 359 test examples.

    Raises:
        ModuleNotFoundError: scikit-learn, which has them, is not installed.
        TypeError: The seed is not an integer.
        ValueError: The seed is negative or the fraction out of range.

    Example:
        >>> from zo_triton.data import digits
        >>> digits(seed=0).train_x.shape[1]
        64
    """
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "the digits come with scikit-learn: pip install 'zo_triton[data]'.", name=error.name
        ) from error

    images, labels = load_digits(return_X_y=True)
    x = (images / MAX_INTENSITY).astype(np.float32)
    y = labels.astype(np.int64)
    train, test = stratified_split(y, test_fraction, seed)
    return Dataset("digits", x[train], y[train], x[test], y[test], SHAPE)
