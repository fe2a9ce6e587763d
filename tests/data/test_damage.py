"""Every truncation and every flipped byte of every format: the data that are there, or an error that names it.

Pixels carry no checksum, so a flipped pixel is another picture; everything around them must be noticed or harmless.
"""

import gzip
import io
import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from zo_triton.data.cifar import RECORD, _read
from zo_triton.data.files import read_whole
from zo_triton.data.mnist import read_idx
from zo_triton.data.tiny_imagenet import decode_image

NIGHTLY = os.environ.get("ZO_TRITON_NIGHTLY") == "1"
MASKS = (*(1 << bit for bit in range(8)), 0xFF) if NIGHTLY else (0xFF,)
GENERATOR = np.random.default_rng(0)
IMAGES = GENERATOR.integers(0, 256, (2, 28, 28), np.uint8)
COLOURS = GENERATOR.integers(0, 256, (2, RECORD - 1), np.uint8)


def truncations(content):
    """Every one; by default the first and last hundred bytes', and some between."""
    inside = range(100, len(content) - 100, 1 if NIGHTLY else 61)
    yield from (content[:kept] for kept in (*range(100), *inside, *range(len(content) - 100, len(content))))


def flips(content, step=11):
    """Every byte; by default the first hundred, the last ten, and every ``step``-th between."""
    inside = range(100, len(content) - 10, 1 if NIGHTLY else step)
    for place in (*range(100), *inside, *range(len(content) - 10, len(content))):
        for mask in MASKS:
            yield place, content[:place] + bytes([content[place] ^ mask]) + content[place + 1 :]


def answer(read, path, content):
    """What the reader returns, or None where it raises a ValueError with the file's name; nothing else may be."""
    path.write_bytes(content)
    try:
        return read(path)
    except ValueError as error:
        assert str(path) in str(error)  # noqa: PT017
        return None


def idx(path):
    return read_idx(path, (28, 28))


IDX = struct.pack(">BBBB3I", 0, 0, 8, 3, 2, 28, 28) + IMAGES.tobytes()
BINARY = b"".join(bytes([label]) + pixels.tobytes() for label, pixels in zip((3, 9), COLOURS, strict=True))


def test_idx(tmp_path):
    path = tmp_path / "train-images-idx3-ubyte"
    assert all(answer(idx, path, content) is None for content in truncations(IDX))
    for place, content in flips(IDX):
        found = answer(idx, path, content)
        assert (found is None) == (place < 16)
        if found is not None:
            assert found.tobytes() == content[16:]


def test_gzip(tmp_path):
    """With a checksum: the very data, or an error. Flags, time and system in the header say nothing about them."""
    path, packed = tmp_path / "train-images-idx3-ubyte.gz", gzip.compress(IDX, mtime=0)
    assert all(answer(idx, path, content) is None for content in truncations(packed))
    refused = 0
    for _, content in flips(packed):
        found = answer(idx, path, content)
        refused += found is None
        assert found is None or np.array_equal(found, IMAGES)
    assert refused > 100


def test_cifar_binary(tmp_path):
    path = tmp_path / "test_batch.bin"
    for content in truncations(BINARY):
        found = answer(_read, path, content)
        assert (found is None) == (len(content) in (0,) or len(content) % RECORD != 0)
    for place, content in flips(BINARY, 61):
        found = answer(_read, path, content)
        if place % RECORD == 0:
            assert found is None or found[1][place // RECORD] == content[place]
        else:
            assert np.array_equal(found[0].ravel(), np.delete(np.frombuffer(content, np.uint8), [0, RECORD]))


@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_cifar_pickle(tmp_path, protocol):
    """Never another exception, never other bytes than the file's, never an object of another kind."""
    path = tmp_path / "test_batch"
    packed = pickle.dumps({b"data": COLOURS, b"labels": [3, 9]}, protocol=protocol)
    assert all(answer(_read, path, content) is None for content in truncations(packed))
    for _, content in flips(packed, 89):
        found = answer(_read, path, content)
        if found is not None:
            pixels, labels = found
            assert pixels.dtype == np.uint8
            assert pixels.shape == (len(labels), RECORD - 1)
            assert all(0 <= label <= 9 for label in labels)


def pictures(kind):
    buffer = io.BytesIO()
    Image.fromarray(GENERATOR.integers(0, 256, (8, 8, 3), np.uint8)).resize((64, 64)).save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_pictures(tmp_path, kind):
    path, packed = tmp_path / "n01_0.JPEG", pictures(kind)
    whole = answer(decode_image, path, packed)
    for content in truncations(packed):
        found = answer(decode_image, path, content)
        assert found is None or np.array_equal(found, whole)
    seen = 0
    for _, content in flips(packed, 7):
        found = answer(decode_image, path, content)
        if found is not None:
            seen += 1
            assert found.dtype == np.uint8
            assert found.shape == (64, 64, 3)
            # PNG has checksums; a JPEG's coefficients may well be others.
            assert kind == "JPEG" or np.array_equal(found, whole)
    assert seen < (len(packed) if kind == "JPEG" else 0.2 * len(packed)) * len(MASKS)


@pytest.mark.parametrize(
    "put",
    [
        Path.mkdir,
        os.mkfifo,
        lambda path: path.symlink_to(path),
        lambda path: path.symlink_to(path.with_name("nowhere")),
    ],
    ids=["folder", "pipe", "loop", "dangling"],
)
def test_what_is_no_file_is_refused_by_name_and_nothing_waits_for_it(tmp_path, put):
    path = tmp_path / "val_0.JPEG"
    put(path)
    with pytest.raises(ValueError, match=r"val_0\.JPEG is no file but a folder, a pipe or a link"):
        read_whole(path, 100)
