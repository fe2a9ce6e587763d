"""MNIST: 70 000 grey images of handwritten digits, 28×28 pixels, ten classes.

Source: Y. LeCun, C. Cortes and C. Burges, "The MNIST database of handwritten digits", 1998; the idx format is
described on the same page. Read from files already on disk; nothing is downloaded.
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from zo_triton.data.dataset import Dataset, check_selection, from_pixels
from zo_triton.data.files import is_file, missing, read_whole, resolve

TITLE = "MNIST"
SHAPE = (1, 28, 28)
NUM_CLASSES = 10
PUBLISHED = "http://yann.lecun.com/exdb/mnist and https://github.com/cvdfoundation/mnist"
FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
FOLDERS = ("MNIST/raw", "MNIST", "mnist", "")
MOST_BYTES = 1 << 30
"""Twenty times the training images: a longer file is no MNIST."""

UNSIGNED_BYTE = 0x08
"""The idx code of its only element type that MNIST uses."""


def mnist(
    root: str | os.PathLike[str] | None = None,
    classes: Iterable[int] | None = None,
    limit: int | None = None,
) -> Dataset:
    """Loads MNIST from its four idx files, each plain or gzip whatever its name says.

    They are looked for in ``root/MNIST/raw`` (where torchvision puts them), ``root/MNIST``, ``root/mnist`` and
    ``root`` itself.

    Args:
        root: The folder of the data sets; None for :func:`zo_triton.data.root`.
        classes: Digits to keep; None for all ten.
        limit: How many training and how many test examples of each class at most; None for all.

    Returns:
        784 features an example in [0, 1]; whole, 60 000 training and 10 000 test examples in 220 MB.

    Raises:
        FileNotFoundError: A file is missing.
        TypeError: A class or the limit is not an integer.
        ValueError: A file is truncated or not what its name says; a class is out of range or named twice; the
            limit is below 1.

    Example:
        >>> from zo_triton.data import available, mnist
        >>> mnist(classes=(3, 5), limit=100).train_x.shape if available("mnist") else (200, 784)
        (200, 784)
    """
    chosen = check_selection(classes, limit, TITLE, NUM_CLASSES)
    paths = find(root)
    train, test = _read_part(paths[0], paths[1]), _read_part(paths[2], paths[3])
    return from_pixels(TITLE, SHAPE, (train, test), chosen, limit)


def find(root: str | os.PathLike[str] | None = None) -> tuple[Path, Path, Path, Path]:
    """The four files, training images first, all in one folder.

    Raises:
        FileNotFoundError: No folder has all four; the message names what is expected.
        ValueError: What has the name of one is no file.
    """
    base = resolve(root)
    for name in FOLDERS:
        found = [path for stem in FILES if (path := _existing(base / name, stem)) is not None]
        if len(found) == len(FILES):
            return found[0], found[1], found[2], found[3]
    expected = ", ".join(FILES) + " (plain or .gz), in MNIST/raw, MNIST, mnist or the folder itself"
    raise missing(TITLE, base, expected, PUBLISHED)


def _existing(folder: Path, stem: str) -> Path | None:
    # Some mirrors write train-images.idx3-ubyte.
    names = (stem, stem.replace("-idx", ".idx"))
    paths = [folder / f"{name}{ending}" for name in names for ending in ("", ".gz")]
    # Where one is a file, a folder named like another is an archive's way to unpack it.
    return next((path for path in paths if path.is_file()), None) or next(filter(is_file, paths), None)


def _read_part(images_path: Path, labels_path: Path) -> tuple[np.ndarray, np.ndarray]:
    images, labels = read_idx(images_path, SHAPE[1:]), read_idx(labels_path, ())
    if len(images) != len(labels):
        raise ValueError(
            f"{images_path} has {len(images)} images, but {labels_path} has {len(labels)} labels; "
            "they are not of one data set."
        )
    if labels.max() >= NUM_CLASSES:
        raise ValueError(f"{labels_path} has the label {labels.max()}; those of {TITLE} are 0 to 9.")
    return images.reshape(len(images), -1), labels


def read_idx(path: Path, item: tuple[int, ...]) -> np.ndarray:
    """Reads one idx file of bytes: 0, 0, type, number of dimensions, big-endian dimensions, elements.

    Args:
        path: The file, plain or gzip.
        item: The dimensions after the first that the file must have.

    Returns:
        [n, *item] uint8, read-only, n at least 1.

    Raises:
        ValueError: Damaged gzip, another magic number, other dimensions, or a length that differs from what
            the header says; the message names the file.
    """
    content = read_whole(path, MOST_BYTES)
    dimensions = 1 + len(item)
    magic = bytes((0, 0, UNSIGNED_BYTE, dimensions))
    header = len(magic) + 4 * dimensions
    if content[: len(magic)] != magic:
        raise ValueError(
            f"{path} is no idx file of {dimensions}-dimensional bytes: it begins with "
            f"{content[: len(magic)].hex() or 'nothing'}, not {magic.hex()}."
        )
    if len(content) < header:
        raise ValueError(f"{path} is truncated: its header takes {header} bytes, it has {len(content)}.")
    shape = struct.unpack(f">{dimensions}I", content[len(magic) : header])
    if shape[1:] != item or shape[0] == 0:
        wanted = "×".join(("n", *map(str, item)))
        raise ValueError(f"{path} says {'×'.join(map(str, shape))} bytes; {TITLE} needs {wanted}, n > 0.")
    stated = header + math.prod(shape)
    if len(content) != stated:
        what = "is truncated" if len(content) < stated else "goes on after its last element"
        raise ValueError(f"{path} {what}: its header says {stated} bytes, it has {len(content)}.")
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)
