"""The 16-bit sign product against float64, at the edges of its grid."""

import numpy as np
import pytest

from zo_triton.cpu.compiling import kernel
from zo_triton.cpu.fixed_point import fixed_sign_product, to_fixed_point
from zo_triton.cpu.signs import TABLES, line_of_floats


@kernel
def _product(totals, words, x):
    short, scale = np.zeros(x.shape, np.int16), np.zeros(32, np.float32)
    to_fixed_point(short, scale, x, np.empty(32, np.float32))
    fixed_sign_product(totals, words, short, scale, line_of_floats(TABLES))


def product(words, x):
    """(what the kernel makes of U @ x, the exact U @ x)."""
    totals = np.full((len(words), 32), np.nan, np.float32)
    _product(totals, words, x)
    bits = (words[:, :, None] >> np.arange(32, dtype=np.uint32)) & 1
    signs = 2.0 * bits.reshape(len(words), -1) - 1.0
    with np.errstate(invalid="ignore"):
        return totals, signs @ x.astype(np.float64)


def draw(rows, width, seed=0):
    generator = np.random.default_rng(seed)
    words = generator.integers(0, 2**32, (rows, width), dtype=np.uint32)
    return words, generator.standard_normal((32 * width, 32)).astype(np.float32)


@pytest.mark.parametrize("width", [1, 2, 3, 25])
def test_each_input_is_off_by_at_most_half_a_step(width):
    words, x = draw(37, width)
    found, exact = product(words, x)
    step = np.abs(x).reshape(width, 32, 32).sum(1).max(0) / 32750
    # Float32 carries the scale and the result: two more roundings, each of 2⁻²⁴ of it.
    assert (np.abs(found - exact) <= 32 * width * step / 2 + 2**-22 * np.abs(exact)).all()
    assert np.linalg.norm(found - exact) <= 1e-3 * np.linalg.norm(exact)


def test_signs_that_all_agree_do_not_overflow():
    """The largest sum there is: every sign as its input's, with inputs that all round away from zero."""
    _, x = draw(1, 1)
    x = np.sign(x) * np.float32(1.0)
    words = (x[:, 0] > 0).astype(np.uint32) @ (np.uint32(1) << np.arange(32, dtype=np.uint32))
    found, exact = product(np.array([[words], [~words]], np.uint32), x)
    assert exact[0, 0] == 32
    np.testing.assert_allclose(found, exact, rtol=1e-3, atol=1e-2)


def test_a_sample_has_a_grid_of_its_own():
    words, x = draw(8, 2)
    x[:, 3] *= 1e6
    x[:, 4] *= 1e-6
    found, exact = product(words, x)
    error, size = (np.linalg.norm(each, axis=0) for each in (found - exact, exact))
    assert (error <= 1e-3 * size).all()


def test_zeros_stay_zeros():
    words, x = draw(5, 2)
    assert not product(words, 0 * x)[0].any()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 40, 63])
def test_what_is_not_finite_stays_so_in_its_sample(value, place):
    words, x = draw(5, 2)
    x[place, 7] = value
    found, _ = product(words, x)
    assert not np.isfinite(found[:, 7]).any()
    assert np.isfinite(np.delete(found, 7, axis=1)).all()
