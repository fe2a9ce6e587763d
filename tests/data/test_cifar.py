import pickle

import numpy as np
import pytest

from zo_triton.data import cifar10


@pytest.mark.parametrize("version", ["binary", "python"])
def test_every_pixel_and_label_arrives(request, cifar_batches, version):
    """Both versions hold the same images; batches follow each other by number, 2 before 10."""
    data = cifar10(request.getfixturevalue(f"cifar_{version}_root"))
    pixels = np.concatenate([batch[0] for batch in cifar_batches[:2]])
    assert (data.name, data.shape) == ("CIFAR-10", (3, 32, 32))
    assert data.train_x.dtype == data.test_x.dtype == np.float32
    assert data.train_y.dtype == data.test_y.dtype == np.int64
    np.testing.assert_allclose(data.train_x, pixels / 255.0, rtol=1e-7)
    assert data.train_y.tolist() == cifar_batches[0][1] + cifar_batches[1][1]
    np.testing.assert_allclose(data.test_x, cifar_batches[2][0] / 255.0, rtol=1e-7)
    assert data.test_y.tolist() == cifar_batches[2][1]


@pytest.mark.parametrize("version", ["bin", "py"])
def test_files_in_the_folder_itself(request, version):
    root = request.getfixturevalue(f"cifar_{'binary' if version == 'bin' else 'python'}_root")
    assert len(cifar10(root / f"cifar-10-batches-{version}").train_x) == 12


def test_binary_is_preferred(cifar_binary_root, cifar_python_root):
    assert cifar_binary_root == cifar_python_root
    (cifar_python_root / "cifar-10-batches-py" / "test_batch").write_bytes(b"damaged")
    assert len(cifar10(cifar_binary_root).test_x) == 4


def test_classes_and_limit(cifar_binary_root, cifar_batches):
    labels = np.array(cifar_batches[0][1] + cifar_batches[1][1])
    wanted = labels[0]
    data = cifar10(cifar_binary_root, classes=[wanted], limit=1)
    assert data.train_y.tolist() == [wanted]
    assert np.array_equal(data.train_x[0], cifar_batches[0][0][0] / np.float32(255))


@pytest.mark.parametrize("kept", [0, 1, 3072, 3074, 4 * 3073 - 1], ids=lambda n: f"{n}-bytes")
def test_truncated_binary(cifar_binary_root, kept):
    path = cifar_binary_root / "cifar-10-batches-bin" / "test_batch.bin"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ValueError, match=rf"test_batch.bin has {kept} bytes, .* records of 3073"):
        cifar10(cifar_binary_root)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"text, not pixels\n" * 3073, "has the label 116; those of CIFAR-10 are 0 to 9"),
        (bytes(3074 * 10), "no whole number of records of 3073"),
        (b"\x1f\x8b" + bytes(3071), "truncated or damaged gzip"),
        (b"\x0a" + bytes(3072), "has the label 10"),
    ],
    ids=["text", "cifar-100", "gzip", "label-10"],
)
def test_foreign_binary(cifar_binary_root, content, message):
    (cifar_binary_root / "cifar-10-batches-bin" / "data_batch_10.bin").write_bytes(content)
    with pytest.raises(ValueError, match=f"data_batch_10.bin.* {message}"):
        cifar10(cifar_binary_root)


PIXELS = np.zeros((2, 3072), np.uint8)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ({b"data": PIXELS, b"labels": [1]}, "has 2 images but 1 labels"),
        ({b"data": PIXELS, b"labels": [1, 10]}, "has the label 10; those of CIFAR-10 are 0 to 9"),
        ({b"data": PIXELS, b"labels": [1, -(2**70)]}, "has the label -1180591620717411303424"),
        ({b"data": PIXELS, b"labels": [1, True]}, "'labels' is no list of integers"),
        ({b"data": PIXELS, b"fine_labels": [1, 2]}, "'labels' is no list of integers"),
        ({b"data": PIXELS[:, :3071], b"labels": [1, 2]}, "'data' has the shape .* not n×3072"),
        ({b"data": PIXELS.astype(np.float32), b"labels": [1, 2]}, "'data' needs unsigned bytes"),
        ({b"labels": [1, 2]}, "'data' needs an array of bytes, got NoneType"),
        ([PIXELS, [1, 2]], "'data' needs an array of bytes, got NoneType"),
    ],
    ids=["count", "label", "huge-label", "bool", "cifar-100", "narrow", "float", "no-data", "list"],
)
def test_foreign_pickle(cifar_python_root, batch, message):
    path = cifar_python_root / "cifar-10-batches-py" / "data_batch_2"
    path.write_bytes(pickle.dumps(batch, protocol=2))
    with pytest.raises(ValueError, match=f"data_batch_2:? .*{message}"):
        cifar10(cifar_python_root)


@pytest.mark.parametrize("part", [0.0, 0.1, 0.5, 0.999])
def test_truncated_pickle(cifar_python_root, part):
    path = cifar_python_root / "cifar-10-batches-py" / "test_batch"
    content = path.read_bytes()
    path.write_bytes(content[: int(part * len(content))])
    with pytest.raises(ValueError, match="test_batch is no pickle of plain arrays"):
        cifar10(cifar_python_root)


def test_missing(tmp_path, cifar_binary_root):
    (cifar_binary_root / "cifar-10-batches-bin" / "test_batch.bin").unlink()
    with pytest.raises(FileNotFoundError) as caught:
        cifar10(cifar_binary_root)
    message = str(caught.value)
    for part in (str(cifar_binary_root), "test_batch.bin", "cifar-10-batches-py", "kriz/cifar.html"):
        assert part in message


def test_class_out_of_range(cifar_binary_root):
    with pytest.raises(ValueError, match="class 10 is out of range: CIFAR-10 has the classes 0 to 9"):
        cifar10(cifar_binary_root, classes=(2, 10))


@pytest.mark.real("cifar10")
def test_published_files():
    data = cifar10()
    assert data.train_x.shape[1] == data.test_x.shape[1] == 3072
    assert sorted(set(data.train_y.tolist())) == list(range(10))
    # The red, green and blue means that everybody normalises CIFAR-10 by; a part of it lies close.
    means = data.train_x.reshape(-1, 3, 1024).mean((0, 2), dtype=np.float64)
    assert means == pytest.approx([0.4914, 0.4822, 0.4465], abs=0.01)
