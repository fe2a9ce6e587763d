"""CIFAR-10: colour photographs of 32×32 pixels, ten classes (0 airplane, 2 bird, 9 truck, ...).

Source: A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009; both file formats are
described at https://www.cs.toronto.edu/~kriz/cifar.html. Read from files already on disk; nothing is
downloaded.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from zo_triton.data.dataset import Dataset, check_selection, from_pixels
from zo_triton.data.files import is_file, missing, read_whole, resolve
from zo_triton.data.pickles import byte_matrix, read_pickle

TITLE = "CIFAR-10"
SHAPE = (3, 32, 32)
PIXELS = 3072
NUM_CLASSES = 10
RECORD = 1 + PIXELS
"""Bytes of a binary record: the label, then the red, green and blue planes row by row."""

PUBLISHED = "https://www.cs.toronto.edu/~kriz/cifar.html"
BINARY, PICKLED = "cifar-10-batches-bin", "cifar-10-batches-py"
TRAINING_NAME = {".bin": re.compile(r"data_batch_(\d+)\.bin"), "": re.compile(r"data_batch_(\d+)")}
MOST_BYTES = 1 << 28
"""Of one batch, eight times the published size."""


def cifar10(
    root: str | os.PathLike[str] | None = None,
    classes: Iterable[int] | None = None,
    limit: int | None = None,
) -> Dataset:
    """Loads CIFAR-10 from its binary batches, or else from its Python ones.

    They are looked for in ``root/cifar-10-batches-bin`` (data_batch_1.bin ..., test_batch.bin),
    ``root/cifar-10-batches-py`` (data_batch_1 ..., test_batch) and ``root`` itself. Any number of training
    batches of any whole number of images will do. Python batches are pickles; no code in them is run.

    Args:
        root: The folder of the data sets; None for :func:`zo_triton.data.root`.
        classes: Class indices to keep; None for all ten.
        limit: How many training and how many test examples of each class at most; None for all.

    Returns:
        3072 features an example in [0, 1], the red plane first; whole, the published set takes 740 MB.

    Raises:
        FileNotFoundError: The test batch or every training batch is missing.
        TypeError: A class or the limit is not an integer.
        ValueError: A file is truncated or not what its name says; a class is out of range or named twice; the
            limit is below 1.
    """
    chosen = check_selection(classes, limit, TITLE, NUM_CLASSES)
    training, test = find(root)
    parts = [_read(path) for path in training]
    pixels = np.concatenate([part[0] for part in parts])
    labels = np.concatenate([part[1] for part in parts])
    return from_pixels(TITLE, SHAPE, ((pixels, labels), _read(test)), chosen, limit)


def find(root: str | os.PathLike[str] | None = None) -> tuple[list[Path], Path]:
    """The training batches in the order of their numbers, and the test batch beside them.

    Raises:
        FileNotFoundError: No folder has both; the message names what is expected.
        ValueError: What has the name of one is no file.
    """
    base = resolve(root)
    for name, suffix in ((BINARY, ".bin"), (PICKLED, ""), ("", ".bin"), ("", "")):
        folder = base / name
        test = folder / f"test_batch{suffix}"
        training = _numbered(folder, suffix) if is_file(test) else []
        if training:
            return training, test
    expected = (
        f"data_batch_1.bin and test_batch.bin in {BINARY}, or data_batch_1 and test_batch in {PICKLED}, or "
        "either in the folder itself"
    )
    raise missing(TITLE, base, expected, PUBLISHED)


def _numbered(folder: Path, suffix: str) -> list[Path]:
    found = []
    for path in folder.iterdir():
        match = TRAINING_NAME[suffix].fullmatch(path.name)
        if match and is_file(path):
            found.append((int(match[1]), path))
    return [path for _, path in sorted(found)]


def _read(path: Path) -> tuple[np.ndarray, np.ndarray]:
    content = read_whole(path, MOST_BYTES)
    pixels, labels = (_from_binary if path.suffix == ".bin" else _from_pickle)(content, path)
    for label in labels:
        if not 0 <= label < NUM_CLASSES:
            raise ValueError(f"{path} has the label {label}; those of {TITLE} are 0 to {NUM_CLASSES - 1}.")
    return pixels, np.array(labels, np.int64)


def _from_binary(content: bytes, path: Path) -> tuple[np.ndarray, list[int]]:
    if not content or len(content) % RECORD:
        raise ValueError(
            f"{path} has {len(content)} bytes, which is no whole number of records of {RECORD}; it is "
            f"truncated or not a binary batch of {TITLE}."
        )
    records = np.frombuffer(content, np.uint8).reshape(-1, RECORD)
    return records[:, 1:], records[:, 0].tolist()


def _from_pickle(content: bytes, path: Path) -> tuple[np.ndarray, list[int]]:
    batch = read_pickle(content, path)
    try:
        pixels = byte_matrix(_entry(batch, "data"), PIXELS)
    except ValueError as error:
        raise ValueError(f"{path}: its entry 'data' {error}.") from error
    labels = _entry(batch, "labels")
    if not isinstance(labels, list) or not all(type(label) is int for label in labels):
        raise ValueError(f"{path}: its entry 'labels' is no list of integers.")
    if len(labels) != len(pixels):
        raise ValueError(f"{path} has {len(pixels)} images but {len(labels)} labels.")
    return pixels, labels


def _entry(batch: Any, key: str) -> Any:
    """The published pickles come from Python 2, whose strings are bytes here."""
    if not isinstance(batch, dict):
        return None
    return batch.get(key.encode(), batch.get(key))
