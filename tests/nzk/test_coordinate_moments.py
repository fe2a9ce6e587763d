"""Moments against closed forms and against draws; the package's lazy names."""

import importlib
import pkgutil
import subprocess
import sys

import numpy as np
import pytest
from scipy import stats

import zo_triton as zo
from zo_triton.distributions import DISTRIBUTIONS, INDEPENDENT
from zo_triton.nzk import Moments, moments


@pytest.mark.parametrize("name", [name for name in INDEPENDENT if not DISTRIBUTIONS[name].orthogonal])
def test_the_table_agrees_with_the_field(name):
    # float64: the eighth powers of a Laplace tail are what the standard error of m4 is made of.
    values = zo.sample(zo.Directions(7, 0, 400, name), 0, (1000,)).double().numpy().ravel()
    found = moments(name)
    for order, value in enumerate((found.m1, found.m2, found.m3, found.m4), start=1):
        powers = values**order
        error = max(powers.std() / powers.size**0.5, 1e-12)
        assert abs(powers.mean() - value) < 4.5 * error


@pytest.mark.parametrize("degrees", [4.5, 5, 10, 1000])
def test_student_t(degrees):
    found = moments(stats.t(degrees))
    assert found.variance == pytest.approx(degrees / (degrees - 2), rel=1e-9)
    assert found.kurtosis == pytest.approx(3 * (degrees - 2) / (degrees - 4), rel=1e-9)
    assert found.symmetric


def test_scaled_and_shifted():
    laplace = moments(stats.laplace(scale=0.5))
    assert (laplace.variance, laplace.kurtosis) == pytest.approx((0.5, 6.0), rel=1e-9)
    # N(μ, σ²): μ, μ²+σ², μ³+3μσ², μ⁴+6μ²σ²+3σ⁴; variance and kurtosis don't move.
    shifted = moments(stats.norm(2.0, 0.5))
    assert (shifted.m1, shifted.m2, shifted.m3, shifted.m4) == pytest.approx((2.0, 4.25, 9.5, 22.1875))
    assert (shifted.variance, shifted.kurtosis) == pytest.approx((0.25, 3.0))
    assert not shifted.centred


def test_skewed_about_zero_is_centred_but_not_symmetric():
    found = moments(stats.expon(loc=-1.0))
    assert found.centred
    assert not found.symmetric
    assert found.m3 == pytest.approx(2.0)


def test_own_samples_are_the_whole_distribution():
    samples = np.array([-1.0, 0.0, 0.0, 3.0])
    found = moments(samples)
    assert (found.m1, found.m2, found.m3, found.m4) == (0.5, 2.5, 6.5, 20.5)
    assert found.variance == pytest.approx(samples.var())
    assert found.kurtosis == pytest.approx(stats.kurtosis(samples, fisher=False))
    assert moments(found) is found


def test_discrete_distributions_have_moments_too():
    assert moments(stats.bernoulli(0.25)).m4 == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("distribution", "error", "message"),
    [
        ("cauchy", ValueError, "unknown distribution 'cauchy'; choose one of .*'rademacher'.*'sphere'"),
        ("sphere", ValueError, "the coordinates of 'sphere' depend on one another"),
        (stats.t(4), ValueError, "all four must be finite.*more than 4 degrees of freedom"),
        (stats.t(3), ValueError, "more than 4 degrees of freedom"),
        (stats.cauchy(), ValueError, "all four must be finite"),
        (stats.t, TypeError, "freeze it first"),
        (stats.norm([0.0, 1.0]), ValueError, r"parameters must be numbers.*\(2,\)"),
        (stats.multivariate_normal([0.0, 0.0]), TypeError, "tells no moments"),
        ([1.0], ValueError, "at least 2 samples, got 1"),
        ([], ValueError, "samples of a distribution is empty"),
        ([[1.0, 2.0]], ValueError, "must have 1 dimension"),
        ([1.0, np.nan], ValueError, "1 value\\(s\\) that are NaN"),
        (["a", "b"], TypeError, "must hold real numbers"),
        (None, TypeError, "a distribution is a name .*got None"),
        (np.random.default_rng(0).normal, TypeError, "a distribution is a name"),
    ],
)
def test_bad_distributions(distribution, error, message):
    with pytest.raises(error, match=message):
        moments(distribution)


def test_impossible_moments():
    with pytest.raises(ValueError, match="no distribution has the raw moments"):
        Moments(1.0, 0.5, 0.0, 1.0)
    with pytest.raises(ValueError, match="no distribution has the raw moments"):
        Moments(0.0, 2.0, 0.0, 3.0)
    with pytest.raises(ValueError, match=r"a constant, 2\.0, has no kurtosis"):
        _ = moments([2.0, 2.0]).kurtosis


def test_importing_the_package_loads_nothing():
    code = (
        "import sys, zo_triton.nzk as nzk; assert not {'torch', 'numpy', 'scipy'} & set(sys.modules); "
        "import zo_triton.nzk.expectation; assert callable(nzk.expected) and callable(nzk.moments); "
        "assert nzk.moments('gaussian').m4 == 3; assert 'evolve' in dir(nzk)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    with pytest.raises(AttributeError, match=r"module 'zo_triton\.nzk' has no attribute 'expectd'"):
        _ = zo_nzk().expectd


def zo_nzk():
    return importlib.import_module("zo_triton.nzk")


def test_every_exported_name_loads():
    for name in zo_nzk().__all__:
        assert getattr(zo_nzk(), name).__name__ == name


def test_no_file_is_named_like_a_public_name():
    # The import system would bind the file to the very name that the function has.
    files = {module.name for module in pkgutil.iter_modules(zo_nzk().__path__)}
    assert files & set(zo_nzk().__all__) == set()
