import numpy as np
import pytest
from scipy import stats

from zo_triton.nzk import Moments
from zo_triton.nzk.evolution import evolve
from zo_triton.nzk.expectation import factor
from zo_triton.nzk.fluctuation import StepMoments, step_moments
from zo_triton.nzk.function_space import simulate
from zo_triton.nzk.second_moment import deviation, second_moments, spread
from zo_triton.nzk.stability import max_stable_lr

N, D = 8, 5
RNG = np.random.default_rng(3)
FEATURES = RNG.standard_normal((N, D)) * [0.2, 0.5, 1.0, 1.0, 2.0]
F0, Y = RNG.standard_normal(N), RNG.standard_normal(N)
KINDS = [("update", "shared"), ("nzk", "shared"), ("nzk", "independent")]
KIND_IDS = ["-".join(kind) for kind in KINDS]


@pytest.fixture(autouse=True)
def small_arrays(one_thread):
    """The arrays here are small enough for one thread."""


CLOSED = {
    "update": (("gaussian", 4, "shared", "update"), (1, 5 / 4, 1 / 4, 0)),
    "update, signs": (("rademacher", 4, "shared", "update"), (1, 5 / 4, 1 / 4, -2 / 4)),
    "update, sphere": (("sphere", 1, "shared", "update"), (1, 2 * 7 / 9, 7 / 9, 0)),
    "shared": (("gaussian", 1, "shared", "nzk"), (9, 2 * 11 * 13, 11 * 13, 0)),
    "shared, signs": (("rademacher", 1, "shared", "nzk"), (7, 98, 49, -98)),
    "shared, 3": (
        ("gaussian", 3, "shared", "nzk"),
        (11 / 3, (81 + 162 + 54 * 7 + 189 + 63 * 7 + 60 + 33 * 7 + 9 * 49 + 3 * 49) / 81, 795 / 81, 0),
    ),
    "independent": (("gaussian", 1, "independent", "nzk"), (1, 4, 11, 0)),
    "independent, 3": (("gaussian", 3, "independent", "nzk"), (1, 16 / 9, (2 * 4 + 7) / 9, 0)),
}


@pytest.mark.parametrize(("arguments", "wanted"), CLOSED.values(), ids=CLOSED)
def test_counted_moments_are_the_closed_forms(arguments, wanted):
    """For d = 7; the Gaussian forms follow from Wick's theorem by hand."""
    assert step_moments(7, *arguments) == pytest.approx(StepMoments(*wanted, 7), rel=1e-12)


SOURCES = {
    "gaussian": lambda g, shape: g.standard_normal(shape),
    "rademacher": lambda g, shape: g.choice([-1.0, 1.0], shape),
    "uniform": lambda g, shape: g.uniform(-(3**0.5), 3**0.5, shape),
    "laplace": lambda g, shape: g.laplace(scale=0.5**0.5, size=shape),
    "sphere": lambda g, shape: _on_sphere(g.standard_normal(shape)),
}


def _on_sphere(z: np.ndarray) -> np.ndarray:
    return z * z.shape[-1] ** 0.5 / np.linalg.norm(z, axis=-1, keepdims=True)


@pytest.mark.parametrize("distribution", SOURCES)
@pytest.mark.parametrize(("kernel", "coupling"), KINDS, ids=KIND_IDS)
def test_moments_of_a_step_by_simulation(distribution, kernel, coupling):
    size, num, draws = 4, 2, 40_000
    generator = np.random.default_rng(5)
    symmetric = generator.standard_normal((size, size))
    symmetric = symmetric + symmetric.T
    z = SOURCES[distribution](generator, (2, draws, num, size))
    first, second = np.swapaxes(z, -1, -2) @ z / num
    step = {"update": first, "nzk": second @ first if coupling == "independent" else first @ first}[kernel]
    numbers = step_moments(size, distribution, num, coupling, kernel)
    wanted = (
        numbers.same * symmetric
        + numbers.trace * np.trace(symmetric) * np.eye(size)
        + numbers.diagonal * np.diag(np.diag(symmetric))
    )
    for found, predicted in (
        (step, numbers.mean * np.eye(size)),
        (step @ symmetric @ np.swapaxes(step, 1, 2), wanted),
    ):
        error = found.std(0, ddof=1) / draws**0.5
        assert np.abs((found.mean(0) - predicted) / np.maximum(error, 1e-12)).max() < 4


@pytest.mark.parametrize("distribution", SOURCES)
@pytest.mark.parametrize("num", [1, 5])
def test_the_mean_is_the_factor_of_the_expected_kernel(distribution, num):
    for kernel, coupling in KINDS:
        wanted = factor(D, distribution, coupling, num, kernel)
        assert step_moments(D, distribution, num, coupling, kernel).mean == pytest.approx(wanted, rel=1e-12)


def test_one_coordinate_has_one_number():
    """d = 1: M = z² for one direction, so E M·A·M = E z⁴·A and nothing else."""
    assert step_moments(1, "laplace") == (1.0, 6.0, 0.0, 0.0, 1)
    assert step_moments(1, "rademacher", 3) == (1.0, 1.0, 0.0, 0.0, 1)


def test_scipy_samples_and_moments_stand_for_the_same_numbers():
    wanted = step_moments(D, "gaussian", 2, "shared", "nzk")
    assert step_moments(D, stats.norm(), 2, "shared", "nzk") == pytest.approx(wanted)
    half = step_moments(D, stats.norm(scale=0.5), 2, "shared", "nzk")
    assert half[:3] == pytest.approx((wanted.mean / 2**4, wanted.same / 2**8, wanted.trace / 2**8))
    signs = step_moments(D, "rademacher", 2, "shared", "nzk")
    assert step_moments(D, [-1.0, 1.0], 2, "shared", "nzk") == pytest.approx(signs)
    assert step_moments(D, Moments(0, 1, 0, 6)) == pytest.approx(step_moments(D, "laplace"))


@pytest.mark.parametrize(("kernel", "coupling"), KINDS, ids=KIND_IDS)
@pytest.mark.parametrize("distribution", [stats.norm(), [-1.0, 1.0]], ids=["gaussian", "signs"])
def test_spread_by_simulation(kernel, coupling, distribution):
    """At a fifth of the stable learning rate, where the squares' own fourth moments are tame."""
    steps, runs = [1, 3, 10, 30], 3000
    values = np.linalg.eigvalsh(FEATURES.T @ FEATURES / N)
    lr = 0.2 * max_stable_lr(values, 2, coupling, kernel, D)
    found = simulate(FEATURES, F0, Y, lr, 30, distribution, coupling, 2, kernel, runs, seed=2, record=steps)
    squares = ((found - Y) ** 2).sum(-1)
    wanted = spread(F0, Y, FEATURES, lr, steps, distribution, coupling, 2, kernel, exact=True)
    z = (squares.mean(1) - wanted) / (squares.std(1, ddof=1) / runs**0.5)
    assert np.abs(z).max() < 4
    if not isinstance(distribution, list):
        about_mean = (found - found.mean(1, keepdims=True)) ** 2
        error = about_mean.std(1, ddof=1) / runs**0.5
        band = deviation(F0, Y, FEATURES, lr, steps, "gaussian", coupling, 2, kernel)
        assert np.abs((about_mean.mean(1) - band**2) / error).max() < 4


@pytest.mark.parametrize(("kernel", "coupling"), KINDS, ids=KIND_IDS)
def test_the_eigenbasis_is_the_whole_second_moment(kernel, coupling):
    numbers = step_moments(D, "sphere", 3, coupling, kernel)
    lr = 0.2 / numbers.mean
    wanted = [
        second for second, _ in zip(second_moments(F0 - Y, FEATURES, lr, numbers), range(41), strict=False)
    ]
    steps = [40, 0, 7]
    arguments = (F0, Y, FEATURES, lr, steps, "sphere", coupling, 3, kernel)
    np.testing.assert_allclose(spread(*arguments), [np.trace(wanted[t]) for t in steps], rtol=1e-10)
    mean = evolve(F0, Y, numbers.mean * FEATURES @ FEATURES.T, lr, steps) - Y
    variance = np.array([np.diag(wanted[t]) for t in steps]) - mean**2
    np.testing.assert_allclose(deviation(*arguments) ** 2, variance, atol=1e-12)


def test_averaging_the_diagonal_is_close_and_exact_is_exact():
    """Signs: γ ≠ 0; with features that are no special axes the average is within a few percent."""
    features = RNG.standard_normal((40, 20))
    f0, y = np.zeros(40), RNG.standard_normal(40)
    numbers = step_moments(20, "rademacher")
    stepped = [s for s, _ in zip(second_moments(f0 - y, features, 0.05, numbers), range(31), strict=False)]
    exact = spread(f0, y, features, 0.05, [30, 0], "rademacher", exact=True)
    np.testing.assert_allclose(exact, [np.trace(stepped[30]), np.trace(stepped[0])], rtol=1e-12)
    averaged = spread(f0, y, features, 0.05, [30], "rademacher")
    assert averaged[0] == pytest.approx(exact[0], rel=0.05)
    assert averaged[0] != pytest.approx(exact[0], rel=1e-6)


def test_beyond_the_limit_it_grows_to_infinity():
    found = spread(F0, Y, FEATURES, 10.0, [0, 1, 10, 10**4])
    assert found[0] == pytest.approx(((F0 - Y) ** 2).sum())
    assert np.all(np.diff(found[:3]) > 0)
    assert np.isinf(found[3])


def test_student_t_with_ten_degrees_has_eight_moments():
    """Which scipy's integration finds, and doubts; E z⁸ = ν⁴·105/((ν-2)(ν-4)(ν-6)(ν-8))."""
    found = step_moments(1, stats.t(10, scale=0.5), 1, "shared", "nzk")
    assert found.same == pytest.approx(10**4 * 105 / (8 * 6 * 4 * 2) / 2**8, rel=1e-12)
    assert step_moments(D, stats.t(df=10), 1, "shared", "nzk").mean == pytest.approx(
        (10 / 8) ** 2 * (D - 1 + 3 * (10 - 2) / (10 - 4))
    )


BAD = {
    "t is uncentred": ((D, stats.t(10, loc=1.0)), "centred, symmetric"),
    "uncentred": ((D, stats.norm(loc=1.0)), r"centred, symmetric directions.*odd moments \[1"),
    "skewed": ((D, stats.expon(loc=-1.0)), "centred, symmetric"),
    "samples that are not mirrored": ((D, [0.0, 1.0, 2.0]), r"np\.concatenate\(\[samples, -samples\]\)"),
    "no eighth moment": ((D, stats.t(7), 1, "shared", "nzk"), "no finite moments up to order 8"),
    "only four moments": ((D, Moments(0, 1, 0, 3), 1, "shared", "nzk"), "needs eight moments"),
    "unknown name": ((D, "cauchy"), "unknown distribution 'cauchy'"),
    "no size": ((None, "laplace"), "size is needed"),
    "no size for the nzk": ((None, "gaussian", 1, "shared", "nzk"), "size is needed: the 'nzk' kernel"),
    "size zero": ((0,), "size must be at least 1, got 0"),
    "no direction": ((D, "gaussian", 0), "num_directions must be at least 1, got 0"),
    "unknown kernel": ((D, "gaussian", 1, "shared", "ntk"), "unknown kernel 'ntk'"),
}


@pytest.mark.parametrize(("arguments", "match"), BAD.values(), ids=BAD)
def test_bad_moments_are_refused(arguments, match):
    with pytest.raises(ValueError, match=match):
        step_moments(*arguments)


def test_four_moments_will_do_for_a_t_of_five_degrees():
    kurtosis = 3 * (5 - 2) / (5 - 4)
    scale = 5 / 3  # its variance
    found = step_moments(D, stats.t(5))
    assert found[:4] == pytest.approx((scale, 2 * scale**2, scale**2, (kurtosis - 3) * scale**2))


BAD_RUNS = {
    "rows": ({"features": FEATURES[:3]}, "features has 3 rows, but y has 8"),
    "f0": ({"f0": F0[:2]}, "f0 must have 8 elements"),
    "lr": ({"lr": -0.1}, "lr must be positive and finite, got -0.1"),
    "steps": ({"steps": [-1]}, "steps must not be negative, got -1"),
}


@pytest.mark.parametrize(("change", "match"), BAD_RUNS.values(), ids=BAD_RUNS)
@pytest.mark.parametrize("function", [spread, deviation])
def test_bad_runs_are_refused(function, change, match):
    arguments = {"f0": F0, "y": Y, "features": FEATURES, "lr": 0.1, "steps": [1]} | change
    with pytest.raises(ValueError, match=match):
        function(**arguments)
