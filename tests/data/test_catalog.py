import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from zo_triton.data import NAMES, Dataset, available, digits, load, mnist, root


def test_root_is_the_variable_or_data_here(monkeypatch, tmp_path):
    monkeypatch.setenv("ZO_TRITON_DATA", str(tmp_path))
    assert root() == tmp_path
    for unset in (monkeypatch.delenv, lambda name: monkeypatch.setenv(name, "")):
        unset("ZO_TRITON_DATA")
        assert root() == Path("data")


def test_loaders_look_in_the_root(monkeypatch, mnist_root):
    monkeypatch.setenv("ZO_TRITON_DATA", str(mnist_root))
    assert available("mnist")
    assert len(mnist().train_x) == len(load("mnist").train_x) == 30
    monkeypatch.delenv("ZO_TRITON_DATA")
    monkeypatch.chdir(mnist_root)
    assert not available("mnist")
    with pytest.raises(FileNotFoundError, match=f"MNIST is not in {mnist_root / 'data'}"):
        mnist()


def test_available_needs_every_file(tmp_path, mnist_root, cifar_python_root, tiny_root):
    assert [name for name in NAMES if available(name, tmp_path)] == list(NAMES)
    (mnist_root / "MNIST/raw/t10k-images-idx3-ubyte").unlink()
    (cifar_python_root / "cifar-10-batches-py/test_batch").unlink()
    (tiny_root / "tiny-imagenet-200/val").rename(tmp_path / "away")
    assert [name for name in NAMES if available(name, tmp_path)] == ["digits"]
    assert not available("mnist", tmp_path / "nowhere")


def test_a_folder_is_no_file(mnist_root):
    """Some archives unpack each file into a folder of its own name."""
    path = mnist_root / "MNIST/raw/t10k-images-idx3-ubyte"
    path.unlink()
    path.mkdir()
    assert not available("mnist", mnist_root)


def test_load_by_every_name(tmp_path, mnist_root, cifar_binary_root, tiny_root):
    titles = {load(name, tmp_path).name: load(name, tmp_path).shape for name in NAMES}
    assert titles == {
        "digits": (1, 8, 8),
        "MNIST": (1, 28, 28),
        "CIFAR-10": (3, 32, 32),
        "Tiny ImageNet": (3, 64, 64),
    }


def test_digits_take_classes_and_a_limit():
    whole, some = digits(), load("digits", classes=(5, 3), limit=4)
    assert np.bincount(some.train_y).tolist() == [0, 0, 0, 4, 0, 4]
    assert np.array_equal(some.train_x[some.train_y == 3], whole.train_x[whole.train_y == 3][:4])
    with pytest.raises(ValueError, match="class 10 is out of range: digits has the classes 0 to 9"):
        load("digits", classes=(10,))


@pytest.mark.parametrize("function", [available, load])
def test_unknown_name(function):
    with pytest.raises(ValueError, match="unknown data set 'MNIST'; known are digits, mnist, cifar10, tiny_"):
        function("MNIST")


def test_shape_must_fit_the_features():
    x, y = np.zeros((2, 6), np.float32), np.zeros(2, np.int64)
    assert Dataset("x", x, y, x, y).shape == ()
    with pytest.raises(ValueError, match=r"shape \(1, 2, 2\) of x holds 4 values, but its examples have 6"):
        Dataset("x", x, y, x, y, (1, 2, 2))


def test_validation_keeps_the_shape():
    assert digits().validation().shape == (1, 8, 8)


def test_importing_the_loaders_loads_no_library():
    code = (
        "import sys, zo_triton.data; print(sorted({'torch', 'scipy', 'sklearn', 'PIL'} & set(sys.modules)))"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        == "[]\n"
    )
