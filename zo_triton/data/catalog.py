"""The data sets by name."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from importlib.util import find_spec

# By "from module import name": as attributes of the package these modules are hidden by their functions.
from zo_triton.data.cifar import cifar10
from zo_triton.data.cifar import find as find_cifar10
from zo_triton.data.dataset import Dataset, check_selection, select
from zo_triton.data.digits import NUM_CLASSES, digits
from zo_triton.data.mnist import find as find_mnist
from zo_triton.data.mnist import mnist
from zo_triton.data.tiny_imagenet import find as find_tiny_imagenet
from zo_triton.data.tiny_imagenet import tiny_imagenet

_FINDERS: dict[str, Callable[..., object]] = {
    "mnist": find_mnist,
    "cifar10": find_cifar10,
    "tiny_imagenet": find_tiny_imagenet,
}
_LOADERS: dict[str, Callable[..., Dataset]] = {
    "mnist": mnist,
    "cifar10": cifar10,
    "tiny_imagenet": tiny_imagenet,
}
NAMES = ("digits", *_LOADERS)
"""What :func:`load` and :func:`available` accept."""


def check_name(name: str) -> str:
    """Refuses an unknown data set.

    Raises:
        ValueError: Its message names the known ones.
    """
    if name not in NAMES:
        raise ValueError(f"unknown data set {name!r}; known are {', '.join(NAMES)}.")
    return name


def available(name: str, root: str | os.PathLike[str] | None = None) -> bool:
    """Whether a data set's files are there; not whether they are whole, which loading finds out.

    Args:
        name: One of :data:`NAMES`; digits are there wherever scikit-learn is.
        root: The folder of the data sets; None for :func:`zo_triton.data.root`.

    Raises:
        ValueError: The name is unknown.
    """
    if check_name(name) == "digits":
        return find_spec("sklearn") is not None
    try:
        _FINDERS[name](root)
    except (FileNotFoundError, ValueError):  # none, or something that is no file has its name
        return False
    return True


def load(
    name: str,
    root: str | os.PathLike[str] | None = None,
    classes: Iterable[int] | None = None,
    limit: int | None = None,
) -> Dataset:
    """Loads a data set by its name.

    Args:
        name: One of :data:`NAMES`.
        root: The folder of the data sets; None for :func:`zo_triton.data.root`.
        classes: Class indices to keep; None for all.
        limit: How many training and how many test examples of each class at most; None for all.

    Raises:
        FileNotFoundError: The data set is not there.
        TypeError: A class or the limit is not an integer.
        ValueError: The name is unknown, a file is damaged, a class out of range, or the limit below 1.
    """
    if check_name(name) != "digits":
        return _LOADERS[name](root, classes, limit)
    whole = digits()
    chosen = check_selection(classes, limit, whole.name, NUM_CLASSES)
    train, test = select(whole.train_y, chosen, limit), select(whole.test_y, chosen, limit)
    return Dataset(
        whole.name,
        whole.train_x[train],
        whole.train_y[train],
        whole.test_x[test],
        whole.test_y[test],
        whole.shape,
    )
