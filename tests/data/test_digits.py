import numpy as np
import pytest

from zo_triton.data import digits, stratified_split


def test_every_example_stands_in_exactly_one_part():
    data = digits(seed=0)
    assert len(data.train_x) + len(data.test_x) == 1797
    together = np.concatenate([data.train_x, data.test_x])
    from sklearn.datasets import load_digits

    original = load_digits().data / 16
    assert np.array_equal(np.sort(together.sum(1)), np.sort(original.astype(np.float32).sum(1)))


def test_types_and_range_suit_torch():
    data = digits(seed=3)
    assert data.train_x.dtype == data.test_x.dtype == np.float32
    assert data.train_y.dtype == data.test_y.dtype == np.int64
    assert data.train_x.min() == 0.0
    assert data.train_x.max() == 1.0


def test_split_is_stratified():
    data = digits(seed=1)
    train, test = np.bincount(data.train_y), np.bincount(data.test_y)
    assert np.abs(test - 0.2 * (train + test)).max() <= 0.5


def test_seed_decides_the_split():
    first, again, other = digits(seed=5), digits(seed=5), digits(seed=6)
    assert np.array_equal(first.test_x, again.test_x)
    assert not np.array_equal(first.test_x, other.test_x)


def test_validation_split_never_sees_the_test_examples():
    data = digits(seed=0)
    tuning = data.validation(seed=4)
    assert len(tuning.train_x) + len(tuning.test_x) == len(data.train_x)
    together = np.concatenate([tuning.train_x, tuning.test_x])
    assert np.array_equal(np.sort(together.sum(1)), np.sort(data.train_x.sum(1)))


@pytest.mark.parametrize(
    ("seed", "fraction", "error", "message"),
    [
        (-1, 0.2, ValueError, "seed must be non-negative, got -1"),
        (0.5, 0.2, TypeError, "seed must be an int, got 0.5"),
        (True, 0.2, TypeError, "seed must be an int, got True"),
        (0, 0.0, ValueError, "fraction must lie strictly between 0 and 1, got 0.0"),
        (0, 1.5, ValueError, "got 1.5"),
        (0, float("nan"), ValueError, "got nan"),
        (0, 1e-6, ValueError, "leaves a part without class 0"),
    ],
)
def test_bad_arguments(seed, fraction, error, message):
    with pytest.raises(error, match=message):
        digits(seed=seed, test_fraction=fraction)


def test_a_class_of_one_example_cannot_be_split():
    with pytest.raises(ValueError, match="without class 7"):
        stratified_split(np.array([1, 1, 1, 1, 7]), 0.5, 0)
