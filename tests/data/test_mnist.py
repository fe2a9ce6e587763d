import gzip
import struct
import sys

import numpy as np
import pytest

from zo_triton.data import mnist

TRAIN_IMAGES = "MNIST/raw/train-images-idx3-ubyte"
TRAIN_LABELS = "MNIST/raw/train-labels-idx1-ubyte.gz"


def test_every_pixel_and_label_arrives(mnist_root, mnist_arrays):
    data = mnist(mnist_root)
    images = mnist_arrays["train-images-idx3-ubyte"].reshape(30, 784)
    assert data.name == "MNIST"
    assert data.shape == (1, 28, 28)
    assert data.train_x.dtype == data.test_x.dtype == np.float32
    assert data.train_y.dtype == data.test_y.dtype == np.int64
    np.testing.assert_allclose(data.train_x, images / 255.0, rtol=1e-7)
    assert data.train_x[0, :2].tolist() == [0.0, 1.0]
    assert data.train_y.tolist() == mnist_arrays["train-labels-idx1-ubyte"].tolist()
    assert data.test_x.shape == (10, 784)


@pytest.mark.parametrize("folder", ["MNIST", "mnist", ""], ids=["MNIST", "mnist", "root"])
def test_other_folders(mnist_root, folder):
    """The root may be a string, and the files may lie in it without another folder."""
    root = mnist_root / "elsewhere"
    (root / folder).mkdir(parents=True)
    for path in (mnist_root / "MNIST" / "raw").iterdir():
        path.rename(root / folder / path.name)
    assert len(mnist(str(root)).train_x) == 30


def test_the_other_spelling_of_the_names(mnist_root):
    for path in (mnist_root / "MNIST" / "raw").iterdir():
        path.rename(path.with_name(path.name.replace("-idx", ".idx")))
    assert len(mnist(mnist_root).train_x) == 30


def test_gzip_is_known_by_its_content(mnist_root):
    """A browser may unpack a .gz and keep the name, or pack and drop it."""
    plain, packed = mnist_root / TRAIN_IMAGES, mnist_root / TRAIN_LABELS
    before = mnist(mnist_root)
    plain.write_bytes(gzip.compress(plain.read_bytes()))
    packed.write_bytes(gzip.decompress(packed.read_bytes()))
    after = mnist(mnist_root)
    assert np.array_equal(before.train_x, after.train_x)
    assert np.array_equal(before.train_y, after.train_y)


def test_classes_and_limit_choose_the_first_of_each(mnist_root):
    whole = mnist(mnist_root)
    some = mnist(mnist_root, classes=(5, 3), limit=2)
    rows = [3, 5, 13, 15]  # the label of row i is i mod 10
    assert some.train_y.tolist() == [3, 5, 3, 5]
    assert np.array_equal(some.train_x, whole.train_x[rows])
    assert some.test_y.tolist() == [3, 5]
    assert len(mnist(mnist_root, limit=1).train_y) == 10


@pytest.mark.parametrize("kept", [0, 1, 3, 4, 7, 15, 16, 17, 16 + 30 * 784 - 1], ids=lambda n: f"{n}-bytes")
def test_truncated_plain_file(mnist_root, kept):
    path = mnist_root / TRAIN_IMAGES
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ValueError, match=r"train-images-idx3-ubyte (is truncated|is no idx file)"):
        mnist(mnist_root)


@pytest.mark.parametrize("kept", [2, 5, 10, 20, -9, -8, -4, -1], ids=lambda n: f"{n}-bytes")
def test_truncated_gzip(mnist_root, kept):
    """Cut in the header, in the data, and in the checksum and length at the end."""
    path = mnist_root / TRAIN_LABELS
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ValueError, match=r"train-labels-idx1-ubyte.gz is a truncated or damaged gzip"):
        mnist(mnist_root)


def test_damaged_gzip_body(mnist_root):
    path = mnist_root / TRAIN_LABELS
    content = bytearray(path.read_bytes())
    content[-6] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"damaged gzip file .*CRC"):
        mnist(mnist_root)


def test_garbage_after_the_end(mnist_root):
    plain, packed = mnist_root / TRAIN_IMAGES, mnist_root / TRAIN_LABELS
    good = plain.read_bytes()
    plain.write_bytes(good + b"\0")
    with pytest.raises(
        ValueError, match=r"goes on after its last element: .* says 23536 bytes, it has 23537"
    ):
        mnist(mnist_root)
    plain.write_bytes(good)
    packed.write_bytes(packed.read_bytes() + b"garbage")
    with pytest.raises(ValueError, match=r"labels.* damaged gzip"):
        mnist(mnist_root)


@pytest.mark.parametrize("bit", range(128), ids=lambda b: f"bit{b}")
def test_any_flipped_header_bit_is_noticed(mnist_root, bit):
    """The image header's 16 bytes: magic, count, height, width."""
    path = mnist_root / TRAIN_IMAGES
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)
    with pytest.raises(ValueError, match="train-images-idx3-ubyte"):
        mnist(mnist_root)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "begins with nothing, not 00000803"),
        (b"<html>404 Not Found</html>", "begins with 3c68746d, not 00000803"),
        (struct.pack(">BBBB2I", 0, 0, 8, 1, 30, 0), "begins with 00000801"),
        (struct.pack(">BBBB3I", 0, 0, 0x0D, 3, 1, 28, 28) + bytes(784 * 4), "begins with 00000d03"),
        (
            struct.pack(">BBBB3I", 0, 0, 8, 3, 30, 32, 32) + bytes(30 * 1024),
            "says 30×32×32 bytes; .* needs n×28×28",
        ),
        (struct.pack(">BBBB3I", 0, 0, 8, 3, 0, 28, 28), "says 0×28×28"),
        (
            struct.pack(">BBBB3I", 0, 0, 8, 3, 31, 28, 28) + bytes(31 * 784),
            "has 31 images, but .* has 30 labels",
        ),
    ],
    ids=["empty", "text", "labels", "floats", "another-size", "no-image", "another-count"],
)
def test_foreign_images(mnist_root, content, message):
    (mnist_root / TRAIN_IMAGES).write_bytes(content)
    with pytest.raises(ValueError, match=f"train-images-idx3-ubyte.* {message}"):
        mnist(mnist_root)


def test_labels_beyond_nine(mnist_root):
    labels = np.full(30, 10, np.uint8)
    (mnist_root / TRAIN_LABELS).write_bytes(struct.pack(">BBBBI", 0, 0, 8, 1, 30) + labels.tobytes())
    with pytest.raises(
        ValueError, match=r"train-labels-idx1-ubyte\.gz has the label 10; those of MNIST are 0 to 9"
    ):
        mnist(mnist_root)


def test_an_archive_that_unpacks_without_end_is_cut_off(mnist_root, monkeypatch):
    # As an attribute of the package, the module is hidden by its function.
    monkeypatch.setattr(sys.modules["zo_triton.data.mnist"], "MOST_BYTES", 20_000)
    with pytest.raises(ValueError, match="train-images-idx3-ubyte holds more than 20000 bytes"):
        mnist(mnist_root)


@pytest.mark.parametrize("lost", [0, 3], ids=["training-images", "test-labels"])
def test_missing_file(mnist_root, lost):
    sorted((mnist_root / "MNIST" / "raw").glob(["train-im*", None, None, "t10k-la*"][lost]))[0].unlink()
    with pytest.raises(FileNotFoundError) as caught:
        mnist(mnist_root)
    message = str(caught.value)
    assert str(mnist_root) in message
    assert "t10k-labels-idx1-ubyte" in message
    assert "http://yann.lecun.com/exdb/mnist" in message
    assert "ZO_TRITON_DATA" in message


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"classes": (3, 10)}, ValueError, "class 10 is out of range: MNIST has the classes 0 to 9"),
        ({"classes": (-1,)}, ValueError, "a class must be non-negative, got -1"),
        ({"classes": (3, 3)}, ValueError, r"classes must differ, got \(3, 3\)"),
        ({"classes": ()}, ValueError, "classes is empty"),
        ({"classes": "35"}, TypeError, "classes must be a sequence of ints such as .* got '35'"),
        ({"classes": 3}, TypeError, "classes must be a sequence of ints such as .* got 3"),
        ({"classes": (3.0,)}, TypeError, "a class must be an int, got 3.0"),
        ({"limit": 0}, ValueError, "limit must be at least 1, got 0"),
        ({"limit": 1.5}, TypeError, "limit must be an int, got 1.5"),
    ],
)
def test_bad_arguments(mnist_root, arguments, error, message):
    with pytest.raises(error, match=message):
        mnist(mnist_root, **arguments)


@pytest.mark.real("mnist")
def test_published_files():
    data = mnist()
    assert data.train_x.shape == (60000, 784)
    assert data.test_x.shape == (10000, 784)
    assert data.train_y[:5].tolist() == [5, 0, 4, 1, 9]
    assert np.bincount(data.train_y).tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    # The mean that everybody normalises MNIST by.
    assert data.train_x.mean(dtype=np.float64) == pytest.approx(0.1307, abs=5e-5)
