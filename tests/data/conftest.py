"""Tiny files of every format that the loaders read, written as their publishers describe them."""

import gzip
import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest

from zo_triton.data import available

WNIDS = ("n01", "n02", "n11")


def pytest_configure(config):
    """Real data are looked for where the loaders look."""
    config.addinivalue_line("markers", "real(name): needs the published data set under $ZO_TRITON_DATA")


def pytest_runtest_setup(item):
    for marker in item.iter_markers("real"):
        if not os.environ.get("ZO_TRITON_DATA") or not available(marker.args[0]):
            pytest.skip(f"{marker.args[0]} is not under $ZO_TRITON_DATA")


def idx_bytes(array):
    """The idx format: 0, 0, 8 for unsigned bytes, the number of dimensions, each dimension, the bytes."""
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


@pytest.fixture
def mnist_arrays():
    """30 training and 10 test images; every digit occurs three times and once."""
    generator = np.random.default_rng(0)
    labels = (np.arange(30) % 10).astype(np.uint8)
    images = generator.integers(0, 256, (40, 28, 28), np.uint8)
    images[0, 0, :2] = 0, 255
    return {
        "train-images-idx3-ubyte": images[:30],
        "train-labels-idx1-ubyte": labels,
        "t10k-images-idx3-ubyte": images[30:],
        "t10k-labels-idx1-ubyte": labels[:10],
    }


@pytest.fixture
def mnist_root(tmp_path, mnist_arrays):
    """A folder as torchvision leaves it: MNIST/raw, two files plain and two gzip."""
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for i, (name, array) in enumerate(mnist_arrays.items()):
        content = idx_bytes(array)
        if i % 2:
            (raw / f"{name}.gz").write_bytes(gzip.compress(content))
        else:
            (raw / name).write_bytes(content)
    return tmp_path


@pytest.fixture
def cifar_batches():
    """Three batches of 7, 5 and 4 images (the last for testing): (pixels, labels) each."""
    generator = np.random.default_rng(1)
    sizes = (7, 5, 4)
    return [
        (generator.integers(0, 256, (n, 3072), np.uint8), generator.integers(0, 10, n).tolist())
        for n in sizes
    ]


@pytest.fixture
def cifar_binary_root(tmp_path, cifar_batches):
    """The binary version; its training batches are numbered 2 and 10, which sort otherwise as text."""
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    for name, (pixels, labels) in zip(
        ("data_batch_2", "data_batch_10", "test_batch"), cifar_batches, strict=True
    ):
        records = np.concatenate([np.array(labels, np.uint8)[:, None], pixels], axis=1)
        (folder / f"{name}.bin").write_bytes(records.tobytes())
    return tmp_path


@pytest.fixture
def cifar_python_root(tmp_path, cifar_batches):
    """The Python version, of today's Python and NumPy; see test_pickles.py for that of Python 2."""
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for name, (pixels, labels) in zip(
        ("data_batch_2", "data_batch_10", "test_batch"), cifar_batches, strict=True
    ):
        batch = {b"batch_label": b"a batch", b"labels": labels, b"data": pixels, b"filenames": [b"one.png"]}
        (folder / name).write_bytes(pickle.dumps(batch, protocol=2))
    return tmp_path


def save_image(path: Path, color, size=(64, 64), mode="RGB", kind="PNG"):
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, color).save(path, kind)


@pytest.fixture
def save():
    """Writes an image of one colour, of a format that its name need not say."""
    return save_image


@pytest.fixture
def tiny_root(tmp_path):
    """Three classes of two training images and one annotated validation image, red = 10·class + number."""
    folder = tmp_path / "tiny-imagenet-200"
    for i, wnid in enumerate(WNIDS):
        for number in range(2):
            save_image(
                folder / "train" / wnid / "images" / f"{wnid}_{number}.JPEG", (10 * i + number, 100, 200)
            )
        save_image(folder / "val" / "images" / f"val_{2 - i}.JPEG", (10 * i + 5, 100, 200), kind="JPEG")
    lines = [f"val_{2 - i}.JPEG\t{wnid}\t0\t0\t63\t63\n" for i, wnid in enumerate(WNIDS)]
    (folder / "val" / "val_annotations.txt").write_text("".join(lines))
    (folder / "wnids.txt").write_text("\n".join(reversed(WNIDS)) + "\n")
    return tmp_path
