"""Something else in the place of one file of a data set: refused by its name, and nothing waits for it."""

import gzip
import os
from pathlib import Path

import pytest

from zo_triton import data

ROOTS = {
    "tiny_root": (data.tiny_imagenet, "tiny-imagenet-200", ("train/n01/images/n01_0.JPEG", "val/images/val_0.JPEG",
                                                           "val/val_annotations.txt", "wnids.txt")),
    "mnist_root": (data.mnist, "MNIST/raw", ("train-images-idx3-ubyte", "t10k-labels-idx1-ubyte.gz")),
    "cifar_binary_root": (data.cifar10, "cifar-10-batches-bin", ("data_batch_2.bin", "test_batch.bin")),
    "cifar_python_root": (data.cifar10, "cifar-10-batches-py", ("data_batch_10", "test_batch")),
}  # fmt: skip
PLACES = [(root, name) for root, (_, _, names) in ROOTS.items() for name in names]

NO_FILES = {
    "folder": Path.mkdir,
    "pipe": os.mkfifo,
    "loop": lambda path: path.symlink_to(path),
    "dangling": lambda path: path.symlink_to(path.with_name("nowhere")),
    "device": lambda path: path.symlink_to("/dev/zero"),
}
FILES = {"empty": b"", "text": b"hello\n"}


@pytest.fixture
def place(request, tmp_path):
    """Loads a data set of which one file, by its path, is about to become something else."""
    root, name = request.param
    request.getfixturevalue(root)
    load, folder, _ = ROOTS[root]
    path = tmp_path / folder / name
    path.unlink()
    return (lambda: load(tmp_path)), path


@pytest.mark.parametrize("place", PLACES, indirect=True, ids=lambda place: place[1])
@pytest.mark.parametrize("kind", NO_FILES)
def test_what_is_no_file(place, kind):
    load, path = place
    NO_FILES[kind](path)
    with pytest.raises(
        ValueError, match="is no file but a folder, a pipe or a link that leads to none"
    ) as error:
        load()
    assert str(error.value).startswith(str(path))


@pytest.mark.parametrize("place", PLACES, indirect=True, ids=lambda place: place[1])
@pytest.mark.parametrize("content", FILES)
def test_a_file_of_another_content(place, content):
    load, path = place
    path.write_bytes(FILES[content])
    with pytest.raises(ValueError) as error:  # noqa: PT011 (each format has words of its own)
        load()
    assert str(path) in str(error.value)


def test_a_packed_image_is_refused(tiny_root):
    path = tiny_root / "tiny-imagenet-200" / "train" / "n01" / "images" / "n01_1.JPEG"
    path.write_bytes(gzip.compress(path.read_bytes()))
    with pytest.raises(ValueError, match=r"n01_1\.JPEG is no whole JPEG or PNG image"):
        data.tiny_imagenet(tiny_root)


def test_a_folder_beside_the_file_of_another_spelling_is_passed_over(mnist_root, mnist_arrays):
    """As one mirror's archives are unpacked."""
    raw = mnist_root / "MNIST" / "raw"
    (raw / "train-images-idx3-ubyte").rename(raw / "train-images.idx3-ubyte")
    (raw / "train-images-idx3-ubyte").mkdir()
    assert len(data.mnist(mnist_root).train_y) == len(mnist_arrays["train-labels-idx1-ubyte"])
