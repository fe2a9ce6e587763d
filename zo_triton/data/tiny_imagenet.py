"""Tiny ImageNet: colour photographs of 64×64 pixels; 200 classes of 500 training and 50 validation images.

Source: Y. Le and X. Yang, "Tiny ImageNet Visual Recognition Challenge", Stanford CS231n, 2015. Read from the
unpacked folders on disk; nothing is downloaded. Its test images have no labels, so the validation images serve
as the test part. Pillow decodes the images.
"""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from zo_triton.data.dataset import Dataset, check_selection, from_pixels
from zo_triton.data.files import is_file, missing, read_whole, resolve

TITLE = "Tiny ImageNet"
SHAPE = (3, 64, 64)
PUBLISHED = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
FOLDER = "tiny-imagenet-200"
PILLOW_MODES = frozenset({"1", "L", "LA", "P", "RGB", "RGBA", "CMYK"})
"""Pixel formats of eight bits or less, which turn into bytes of red, green and blue without loss of range."""

IMAGE_SUFFIXES = frozenset({".jpeg", ".jpg", ".png"})
MOST_BYTES = 1 << 20
"""Of one image; those published have 2 kB."""

Labelled = list[tuple[Path, int]]


def tiny_imagenet(
    root: str | os.PathLike[str] | None = None,
    classes: Iterable[int] | None = None,
    limit: int | None = None,
) -> Dataset:
    """Loads Tiny ImageNet from its folders, decoding only the images asked for.

    They are looked for in ``root/tiny-imagenet-200`` and ``root`` itself. Training images lie in
    ``train/<wnid>/images``; validation images in ``val/images`` with ``val/val_annotations.txt``, or sorted into
    ``val/<wnid>`` or ``val/<wnid>/images``. Class i is the i-th WordNet id in alphabetical order, as torchvision's
    ImageFolder counts them (the file wnids.txt has another order). Grey images become colour ones.

    Args:
        root: The folder of the data sets; None for :func:`zo_triton.data.root`.
        classes: Class indices to keep; None for all.
        limit: How many training and how many test examples of each class at most, in the order of the file
            names; None for all.

    Returns:
        12 288 features an example in [0, 1], the red plane first. The whole published set would take 5.4 GB,
        so name the classes or a limit.

    Raises:
        FileNotFoundError: The folder train or val is missing.
        TypeError: A class or the limit is not an integer.
        ValueError: An image is truncated, foreign or of another size; wnids.txt or the annotations name other
            classes or images than there are; a class is out of range or named twice; the limit is below 1.
    """
    folder = find(root)
    wnids = _class_names(folder)
    chosen = check_selection(classes, limit, TITLE, len(wnids))
    listed = range(len(wnids)) if chosen is None else chosen
    training = [(path, i) for i in sorted(listed) for path in _images(folder / "train" / wnids[i])]
    parts = [_decode(_select(files, chosen, limit)) for files in (training, _validation(folder, wnids))]
    return from_pixels(TITLE, SHAPE, (parts[0], parts[1]))


def find(root: str | os.PathLike[str] | None = None) -> Path:
    """The folder that has ``train``, with at least one class, and ``val``.

    Raises:
        FileNotFoundError: There is none; the message names what is expected.
    """
    base = resolve(root)
    for folder in (base / FOLDER, base):
        if (folder / "val").is_dir() and (folder / "train").is_dir() and _subfolders(folder / "train"):
            return folder
    expected = f"{FOLDER}/train/<wnid>/images/*.JPEG and {FOLDER}/val, or train and val in the folder itself"
    raise missing(TITLE, base, expected, PUBLISHED)


def _subfolders(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _class_names(folder: Path) -> list[str]:
    """The class folders, which must be those of wnids.txt if it is there: an archive may be half unpacked."""
    names = _subfolders(folder / "train")
    listing = folder / "wnids.txt"
    if is_file(listing):
        listed = sorted(line.strip() for line in _lines(listing) if line.strip())
        if listed != names:
            odd = sorted(set(listed).symmetric_difference(names)) or ["a name listed twice"]
            raise ValueError(
                f"{listing} does not list the folders of {folder / 'train'}; they differ in {odd[0]!r}. "
                f"Unpack {TITLE} again."
            )
    return names


def _lines(path: Path) -> list[str]:
    """A text file's lines without a byte-order mark and without blank lines at the end, as editors leave them."""
    try:
        return read_whole(path, MOST_BYTES * 16).decode("utf-8-sig").rstrip().splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text file ({error}); unpack {TITLE} again.") from error


def _images(folder: Path) -> list[Path]:
    """The image files of a class or of the validation part, sorted by name: folders keep no order.

    macOS leaves a file ``._name`` beside each file that it unpacks onto another system's disk; those are no images.
    """
    inner = folder / "images"
    place = inner if inner.is_dir() else folder
    visible = (path for path in place.iterdir() if not path.name.startswith("."))
    found = sorted(path for path in visible if path.suffix.lower() in IMAGE_SUFFIXES)
    if not found:
        raise ValueError(f"{place} has no images; unpack {TITLE} again.")
    return found


def _validation(folder: Path, wnids: list[str]) -> Labelled:
    place = folder / "val"
    annotations = place / "val_annotations.txt"
    # Scripts that sort the images into folders leave the annotations behind.
    if is_file(annotations) and (place / "images").is_dir():
        return _annotated(annotations, wnids)
    if _subfolders(place) != wnids:
        raise ValueError(
            f"{place} has neither images with {annotations.name} nor the folders that {folder / 'train'} has."
        )
    return [(path, i) for i, wnid in enumerate(wnids) for path in _images(place / wnid)]


def _annotated(annotations: Path, wnids: list[str]) -> Labelled:
    """Reads lines of file name, WordNet id and box, separated by tabs; the box is not needed."""
    files = {path.name: path for path in _images(annotations.parent)}
    index = {wnid: i for i, wnid in enumerate(wnids)}
    labels: dict[str, int] = {}
    for number, line in enumerate(_lines(annotations), 1):
        name, _, rest = line.partition("\t")
        wnid = rest.split("\t")[0]
        if name not in files or wnid not in index or name in labels:
            raise ValueError(
                f"{annotations}, line {number}: {line[:80]!r} does not name an image of "
                f"{annotations.parent}, for the first time, and one of the {len(wnids)} classes."
            )
        labels[name] = index[wnid]
    unlabelled = sorted(files.keys() - labels.keys())
    if unlabelled:
        raise ValueError(f"{annotations} says no class for {files[unlabelled[0]]}; it may be truncated.")
    return [(files[name], labels[name]) for name in sorted(labels)]


def _select(files: Labelled, classes: tuple[int, ...] | None, limit: int | None) -> Labelled:
    """The same choice as for the other data sets, made before anything is decoded."""
    kept: Labelled = []
    count: dict[int, int] = {}
    for path, label in files:
        count[label] = count.get(label, 0) + 1
        if (classes is None or label in classes) and (limit is None or count[label] <= limit):
            kept.append((path, label))
    return kept


def _decode(files: Labelled) -> tuple[np.ndarray, np.ndarray]:
    channels, height, width = SHAPE
    pixels = np.empty((len(files), channels, height, width), np.uint8)
    for row, (path, _) in enumerate(files):
        pixels[row] = decode_image(path).transpose(2, 0, 1)
    return pixels.reshape(len(files), -1), np.array([label for _, label in files], np.int64)


def decode_image(path: Path) -> np.ndarray:
    """Decodes one JPEG or PNG, whatever its name says.

    Returns:
        [64, 64, 3] uint8: red, green, blue.

    Raises:
        ModuleNotFoundError: Pillow is not installed.
        ValueError: It is truncated, no image of these formats, or of another size.
    """
    # Pillow takes a tenth of a second to import, which users of other data sets need not wait for.
    try:
        from PIL import Image
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"images of {TITLE} are decoded by Pillow: pip install 'zo_triton[data]'.", name=error.name
        ) from error

    damage = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error)
    bombs = (Image.DecompressionBombError, Image.DecompressionBombWarning)
    content = read_whole(path, MOST_BYTES, unpack=False)
    try:
        # Formats are named so that no other decoder of Pillow's, some of which start programs, ever runs.
        with Image.open(io.BytesIO(content), formats=("JPEG", "PNG")) as image:
            # A PNG's checksums, which decoding does not look at; an image that was verified must be opened again.
            image.verify()
        with Image.open(io.BytesIO(content), formats=("JPEG", "PNG")) as image:
            found = f"{image.height}×{image.width} pixels of the kind {image.mode}"
            if (image.height, image.width) == SHAPE[1:] and image.mode in PILLOW_MODES:
                return np.asarray(image.convert("RGB"))
    except (*damage, *bombs) as error:
        reason = str(error).split(" <_io")[0]
        raise ValueError(f"{path} is no whole JPEG or PNG image ({reason}); unpack {TITLE} again.") from error
    raise ValueError(f"{path} has {found}; images of {TITLE} have {SHAPE[1]}×{SHAPE[2]} of bytes.")
