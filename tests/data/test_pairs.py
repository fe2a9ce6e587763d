import numpy as np
import pytest

from zo_triton.data import Dataset, class_pair, class_pair_or_digits, digits, mnist


@pytest.fixture(scope="module")
def shapes():
    """40 colour images of 4×4 pixels, classes 0 to 3 in turn, each recognisable by its brightness."""
    x = np.repeat(np.arange(40, dtype=np.float32)[:, None] / 40, 48, axis=1)
    y = np.arange(40) % 4
    return Dataset("shapes", x, y, x[:4], y[:4], (3, 4, 4))


def rows_of(pair, dataset):
    return np.round(pair.x[:, 0] * 40).astype(int)


def test_pair_holds_what_it_says(shapes):
    pair = class_pair(shapes, (3, 1), per_class=6, size=2)
    rows = rows_of(pair, shapes)
    assert pair.name == "shapes 3 v 1"
    assert pair.classes == (3, 1)
    assert pair.note == ""
    assert pair.x.shape == (12, 4)
    assert pair.x.dtype == pair.y.dtype == np.float32
    assert pair.y.tolist() == [-1.0] * 6 + [1.0] * 6
    assert shapes.train_y[rows].tolist() == [3] * 6 + [1] * 6
    assert len(set(rows.tolist())) == 12
    # The position within the class is row // 4, as the classes take turns.
    assert pair.indices.dtype == np.int64
    assert pair.indices.tolist() == (rows // 4).tolist()


def test_the_seed_decides_and_nothing_else_does(shapes):
    first = class_pair(shapes, (0, 2), 5, seed=3)
    assert np.array_equal(first.x, class_pair(shapes, (0, 2), 5, seed=3).x)
    assert first.indices.tolist() != class_pair(shapes, (0, 2), 5, seed=4).indices.tolist()
    swapped = class_pair(shapes, (2, 0), 5, seed=3)
    assert np.array_equal(swapped.x, np.concatenate([first.x[5:], first.x[:5]]))
    more = class_pair(shapes, (0, 2), 7, seed=3)
    assert more.indices[:5].tolist() == first.indices[:5].tolist()
    assert more.indices[7:12].tolist() == first.indices[5:].tolist()


def test_all_examples_of_a_class(shapes):
    pair = class_pair(shapes, (0, 1), per_class=10, size=4)
    assert sorted(pair.indices[:10].tolist()) == list(range(10))


def test_a_name_gives_what_its_data_set_gives(mnist_root):
    """A named set is loaded in part, which must not change the choice."""
    by_name = class_pair("mnist", (3, 5), per_class=2, root=mnist_root)
    loaded = class_pair(mnist(mnist_root), (3, 5), per_class=2)
    assert by_name.name == loaded.name == "MNIST 3 v 5"
    assert np.array_equal(by_name.x, loaded.x)
    assert np.array_equal(by_name.indices, loaded.indices)


def test_digits_are_8_by_8_already():
    data = digits()
    for mode in ("bilinear", "area"):
        pair = class_pair("digits", per_class=20, resize=mode)
        members = np.flatnonzero(data.train_y == 3)
        assert np.array_equal(pair.x[:20], data.train_x[members[pair.indices[:20]]])


def test_missing_data_fall_back_to_digits_and_say_so(tmp_path):
    pair = class_pair_or_digits("cifar10", (2, 9), per_class=30, seed=1, root=tmp_path)
    plain = class_pair("digits", (3, 5), per_class=30, seed=1)
    assert np.array_equal(pair.x, plain.x)
    assert pair.x.shape == (60, 64)
    assert (pair.name, pair.classes) == ("digits 3 v 5", (3, 5))
    assert pair.note == (
        f"cifar10 is not in {tmp_path} (set ZO_TRITON_DATA to name another folder): these are scikit-learn's "
        "digits 3 v 5 instead of classes 2 v 9."
    )


def test_present_data_are_used(mnist_root):
    pair = class_pair_or_digits("mnist", (3, 5), per_class=3, root=mnist_root)
    assert (pair.name, pair.note) == ("MNIST 3 v 5", "")


def test_damaged_data_are_never_replaced(mnist_root):
    (mnist_root / "MNIST/raw/train-images-idx3-ubyte").write_bytes(b"damaged")
    with pytest.raises(ValueError, match="train-images-idx3-ubyte is no idx file"):
        class_pair_or_digits("mnist", root=mnist_root)


@pytest.mark.parametrize("function", [class_pair, class_pair_or_digits])
@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"classes": (3, 3)}, ValueError, r"classes must differ, got \(3, 3\)"),
        ({"classes": (3,)}, ValueError, r"classes must be two, got \(3,\)"),
        ({"classes": (1, 2, 3)}, ValueError, r"classes must be two, got \(1, 2, 3\)"),
        ({"classes": (1, -2)}, ValueError, "a class must be non-negative, got -2"),
        ({"classes": ("3", "5")}, TypeError, "a class must be an int, got '3'"),
        ({"per_class": 0}, ValueError, "per_class must be at least 1, got 0"),
        ({"per_class": 10.0}, TypeError, "per_class must be an int, got 10.0"),
        (
            {"per_class": 1000},
            ValueError,
            "per_class 1000 exceeds the 1.. training examples that digits has",
        ),
        ({"size": 0}, ValueError, "size must be at least 1, got 0"),
        ({"size": True}, TypeError, "size must be an int, got True"),
        ({"resize": "nearest"}, ValueError, "resize must be one of bilinear, area, got 'nearest'"),
        ({"seed": -1}, ValueError, "seed must be non-negative, got -1"),
        ({"seed": None}, TypeError, "seed must be an int, got None"),
    ],
)
def test_bad_arguments(function, arguments, error, message):
    with pytest.raises(error, match=message):
        function("digits", **arguments)


def test_class_that_is_not_there(shapes):
    with pytest.raises(
        ValueError, match="class 7 is not in the training part of shapes, which has 0, 1, 2, 3"
    ):
        class_pair(shapes, (1, 7), 2)
    with pytest.raises(ValueError, match="class 10 is out of range: digits has the classes 0 to 9"):
        class_pair("digits", (1, 10), 2)


def test_unknown_name_is_not_a_missing_data_set():
    for function in (class_pair, class_pair_or_digits):
        with pytest.raises(ValueError, match="unknown data set 'minst'; known are digits, mnist, "):
            function("minst")


def test_vectors_are_no_images(shapes):
    flat = Dataset("flat", shapes.train_x, shapes.train_y, shapes.test_x, shapes.test_y)
    with pytest.raises(ValueError, match=r"shape must be .* got \(\)"):
        class_pair(flat, (1, 2), 2)


@pytest.mark.real("mnist")
@pytest.mark.real("cifar10")
@pytest.mark.real("tiny_imagenet")
@pytest.mark.parametrize(
    ("name", "classes"), [("mnist", (3, 5)), ("cifar10", (2, 9)), ("tiny_imagenet", (0, 1))]
)
@pytest.mark.parametrize("mode", ["bilinear", "area"])
def test_the_papers_pairs(name, classes, mode):
    pair = class_pair(name, classes, resize=mode)
    assert pair.x.shape == (200, 64)
    assert 0.0 <= pair.x.min() < pair.x.max() <= 1.0
    assert pair.y.sum() == 0.0
    assert len(np.unique(pair.x, axis=0)) == 200
