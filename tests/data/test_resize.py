import math

import numpy as np
import pytest

from zo_triton.data.resize import resize, to_grey


def naive_bilinear(image, size):
    """From the definition: new centres on the old grid, clamped at the border, four neighbours weighed."""
    height, width = image.shape
    result = np.empty((size, size))
    for i in range(size):
        for j in range(size):
            row = max((i + 0.5) * height / size - 0.5, 0.0)
            column = max((j + 0.5) * width / size - 0.5, 0.0)
            top, left = int(row), int(column)
            bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
            a, b = row - top, column - left
            upper = (1 - b) * image[top, left] + b * image[top, right]
            lower = (1 - b) * image[bottom, left] + b * image[bottom, right]
            result[i, j] = (1 - a) * upper + a * lower
    return result


def naive_area(image, size):
    """The mean of every source pixel that a new pixel touches."""
    height, width = image.shape
    result = np.empty((size, size))
    for i in range(size):
        for j in range(size):
            rows = slice(math.floor(i * height / size), math.ceil((i + 1) * height / size))
            columns = slice(math.floor(j * width / size), math.ceil((j + 1) * width / size))
            result[i, j] = image[rows, columns].mean()
    return result


@pytest.mark.parametrize(
    ("height", "width", "size"),
    [
        (28, 28, 8),  # MNIST: sizes that do not divide
        (64, 64, 8),  # Tiny ImageNet: only the middle four of 64 pixels count
        (8, 8, 8),  # digits: as they are
        (8, 8, 13),  # larger
        (5, 7, 1),  # a single pixel; not square
        (1, 1, 3),
    ],
)
@pytest.mark.parametrize(("mode", "naive"), [("bilinear", naive_bilinear), ("area", naive_area)])
def test_agrees_with_the_definition(height, width, size, mode, naive):
    images = np.random.default_rng(0).random((2, height, width), np.float32)
    found = resize(images, size, mode)
    assert found.shape == (2, size, size)
    assert found.dtype == np.float32
    for image, small in zip(images.astype(np.float64), found, strict=True):
        np.testing.assert_allclose(small, naive(image, size), atol=2e-6)


def test_bilinear_is_not_antialiased():
    """Of a 64-pixel side, the new centres lie between pixels 3 and 4 of each eight; the others do not count."""
    images = np.zeros((1, 64, 64), np.float32)
    images[0, 0::8] = images[0, 7::8] = 1.0
    assert resize(images, 8, "bilinear").max() == 0.0
    assert resize(images, 8, "area").min() == 0.25


def test_a_view_resizes_like_its_copy():
    images = np.random.default_rng(1).random((9, 9, 4), np.float32).T
    assert np.array_equal(resize(images, 4), resize(images.copy(), 4))


def test_grey_weighs_the_colours():
    x = np.eye(3, dtype=np.float32).repeat(2, axis=1)  # pure red, green and blue images of 1×2 pixels
    grey = to_grey(x, (3, 1, 2))
    assert grey.shape == (3, 1, 2)
    assert grey.dtype == np.float32
    np.testing.assert_allclose(grey[:, 0, 1], [0.299, 0.587, 0.114], rtol=1e-6)


def test_grey_leaves_grey_alone():
    x = np.random.default_rng(2).random((3, 6), np.float32)
    assert np.array_equal(to_grey(x, (1, 2, 3)).reshape(3, 6), x)


@pytest.mark.parametrize("shape", [(), (6,), (2, 1, 3), (4, 1, 1)])
def test_no_image(shape):
    with pytest.raises(ValueError, match=r"shape must be \(1, height, width\) or \(3, height, width\), got"):
        to_grey(np.zeros((1, 6), np.float32), shape)


def test_unknown_mode():
    with pytest.raises(ValueError, match="resize must be one of bilinear, area, got 'bicubic'"):
        resize(np.zeros((1, 2, 2), np.float32), 1, "bicubic")
