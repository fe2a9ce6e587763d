"""Two classes of a data set as small grey images with labels −1 and +1."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from zo_triton.data.arguments import check_classes, check_integer
from zo_triton.data.catalog import available, check_name, load
from zo_triton.data.dataset import Dataset
from zo_triton.data.files import absent
from zo_triton.data.resize import MODES, to_grey
from zo_triton.data.resize import resize as resize_images

FALLBACK_CLASSES = (3, 5)


@dataclass(frozen=True, eq=False)
class Pair:
    """Examples of two classes, the first class's before the second's.

    Args:
        name: Such as "MNIST 3 v 5".
        x: [n, size·size] float32 in [0, 1], row by row.
        y: [n] float32: −1 for the first class, +1 for the second.
        classes: The two class indices.
        indices: [n] int64, each example's position among its class's training examples, from zero.
        note: What a reader must be told about the data; empty if they are what was asked for.
    """

    name: str
    x: np.ndarray
    y: np.ndarray
    classes: tuple[int, int]
    indices: np.ndarray
    note: str = ""


def class_pair(
    dataset: Dataset | str,
    classes: Iterable[int] = (3, 5),
    per_class: int = 100,
    size: int = 8,
    resize: str = "bilinear",
    seed: int = 0,
    root: str | os.PathLike[str] | None = None,
) -> Pair:
    """Chooses training examples of two classes and makes them small and grey.

    A class's choice depends on the seed and the class alone: swapping the classes changes the labels, and a
    larger ``per_class`` only adds examples.

    Args:
        dataset: A loaded data set of images, or the name of one.
        classes: Two class indices.
        per_class: Examples of each class, at most what the training part has.
        size: Pixels a side of the result.
        resize: "bilinear" (without antialiasing) or "area"; see :func:`zo_triton.data.resize.resize`.
        seed: Of the choice; non-negative.
        root: Where to look for a named data set; None for :func:`zo_triton.data.root`.

    Raises:
        FileNotFoundError: A named data set is not there.
        TypeError: A class, the count, the size or the seed is not an integer.
        ValueError: Not two different classes of the data set, a count or size out of range, an unknown name or
            mode, a damaged file, or examples that are no images.
    """
    first, second = _check(classes, per_class, size, resize, seed)
    data = load(dataset, root, (first, second)) if isinstance(dataset, str) else dataset
    rows: list[np.ndarray] = []
    indices: list[np.ndarray] = []
    for label in (first, second):
        members = np.flatnonzero(data.train_y == label)
        if len(members) == 0:
            known = ", ".join(map(str, np.unique(data.train_y)))
            raise ValueError(f"class {label} is not in the training part of {data.name}, which has {known}.")
        if per_class > len(members):
            raise ValueError(
                f"per_class {per_class} exceeds the {len(members)} training examples that {data.name} has of "
                f"class {label}."
            )
        chosen = np.random.default_rng((seed, label)).permutation(len(members))[:per_class]
        rows.append(members[chosen])
        indices.append(chosen.astype(np.int64))
    images = resize_images(to_grey(data.train_x[np.concatenate(rows)], data.shape), size, resize)
    return Pair(
        name=f"{data.name} {first} v {second}",
        x=images.reshape(len(images), -1),
        y=np.repeat(np.array([-1.0, 1.0], np.float32), per_class),
        classes=(first, second),
        indices=np.concatenate(indices),
    )


def class_pair_or_digits(
    name: str,
    classes: Iterable[int] = (3, 5),
    per_class: int = 100,
    size: int = 8,
    resize: str = "bilinear",
    seed: int = 0,
    root: str | os.PathLike[str] | None = None,
) -> Pair:
    """:func:`class_pair` of a named data set, or of scikit-learn's digits 3 and 5 where it is missing.

    Only a missing data set is replaced; a damaged one is an error. The arguments are those of
    :func:`class_pair`; the result's ``note`` says what was replaced and is empty if nothing was.

    Raises:
        TypeError: As :func:`class_pair`.
        ValueError: As :func:`class_pair`.
    """
    if available(check_name(name), root):
        return class_pair(name, classes, per_class, size, resize, seed, root)
    first, second = _check(classes, per_class, size, resize, seed)
    pair = class_pair("digits", FALLBACK_CLASSES, per_class, size, resize, seed)
    note = (
        f"{absent(name, root)}: these are scikit-learn's {pair.name} instead of classes {first} v {second}."
    )
    return replace(pair, note=note)


def _check(classes: Iterable[int], per_class: int, size: int, mode: str, seed: int) -> tuple[int, int]:
    """Refuses what is wrong for any data set, before one is read."""
    chosen = check_classes(classes, "the data set")
    if len(chosen) != 2:
        raise ValueError(f"classes must be two, got {chosen}.")
    check_integer(per_class, "per_class", 1)
    check_integer(size, "size", 1)
    check_integer(seed, "seed", 0)
    if mode not in MODES:
        raise ValueError(f"resize must be one of {', '.join(MODES)}, got {mode!r}.")
    return chosen[0], chosen[1]
