import numpy as np
import pytest
from scipy import stats

from zo_triton.nzk import recursion as recursion_function
from zo_triton.nzk.evolution import evolve
from zo_triton.nzk.expectation import expected, factor
from zo_triton.nzk.function_space import Factors, factors, measured_factor, recursion, simulate

N, D = 9, 5
RNG = np.random.default_rng(2)
FEATURES = RNG.standard_normal((N, D))
F0, Y = RNG.standard_normal(N), RNG.standard_normal(N)
KINDS = [("update", "shared"), ("nzk", "shared"), ("nzk", "independent")]
KIND_IDS = ["-".join(kind) for kind in KINDS]


@pytest.fixture(autouse=True)
def small_arrays(one_thread):
    """The arrays here are small enough for one thread."""


def kernel_by_definition(z: np.ndarray, zeta: np.ndarray, kernel: str) -> np.ndarray:
    """Sums over directions and pairs of directions, as the theory writes them."""
    num = len(z)
    if kernel == "update":
        return sum(np.outer(FEATURES @ v, FEATURES @ v) for v in z) / num
    pairs = ((w, v) for w in zeta for v in z)
    return sum(np.outer(FEATURES @ w, FEATURES @ v) * (w @ v) for w, v in pairs) / num**2


@pytest.mark.parametrize(("kernel", "coupling"), KINDS, ids=KIND_IDS)
@pytest.mark.parametrize("num", [1, 3])
def test_factors_make_the_kernel_of_the_definition(kernel, coupling, num):
    z, other = RNG.standard_normal((2, 4, num, D))
    zeta = other if coupling == "independent" else None
    dense = factors(FEATURES, z, zeta, kernel).dense()
    walked = z if zeta is None else zeta
    for step in range(4):
        wanted = kernel_by_definition(z[step], walked[step], kernel)
        np.testing.assert_allclose(dense[step], wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("kernel", "coupling"), KINDS, ids=KIND_IDS)
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_recursion_walks_the_dense_kernels(kernel, coupling, momentum):
    z, other = RNG.standard_normal((2, 20, 3, D))
    realised = factors(FEATURES, z, other if coupling == "independent" else None, kernel)
    lr, f, velocity, wanted = 0.01, F0.copy(), np.zeros(N), [F0]
    for dense in realised.dense():
        velocity = momentum * velocity + dense @ (f - Y) / N
        f = f - lr * velocity
        wanted.append(f)
    found = recursion(F0, Y, realised, lr, momentum)
    np.testing.assert_allclose(found, wanted, rtol=1e-11)


def test_chunks_batches_and_records_change_no_value():
    z = RNG.standard_normal((10, 2, 3, D))
    whole = recursion(F0, Y, factors(FEATURES, z, kernel="nzk"), 0.01)
    assert whole.shape == (11, 2, N)
    chunks = (factors(FEATURES, part, kernel="nzk") for part in np.split(z, [1, 8]))
    np.testing.assert_array_equal(recursion(F0, Y, chunks, 0.01), whole)
    one = recursion(F0, Y, factors(FEATURES, z[:, 1], kernel="nzk"), 0.01)
    np.testing.assert_allclose(one, whole[:, 1], rtol=1e-12)
    kept = recursion(F0, Y, factors(FEATURES, z, kernel="nzk"), 0.01, record=[0, 3, 10])
    np.testing.assert_array_equal(kept, whole[[0, 3, 10]])


def test_simulation_does_not_depend_on_the_chunks(monkeypatch):
    arguments = (FEATURES, F0, Y, 0.02, 7, "laplace", "independent", 2, "nzk")
    wanted = simulate(*arguments, runs=3, seed=4)
    assert wanted.shape == (8, 3, N)
    assert np.abs(wanted[-1, 0] - wanted[-1, 1]).max() > 1e-3
    monkeypatch.setattr("zo_triton.nzk.function_space.CHUNK_VALUES", 2 * 3 * 4 * D)
    np.testing.assert_allclose(simulate(*arguments, runs=3, seed=4), wanted, rtol=1e-12)
    assert np.abs(simulate(*arguments, runs=3, seed=5)[-1] - wanted[-1]).max() > 1e-3


@pytest.mark.parametrize(("kernel", "coupling"), KINDS, ids=KIND_IDS)
@pytest.mark.parametrize(("distribution", "num"), [("gaussian", 1), ("rademacher", 4)])
def test_mean_of_200_runs_is_the_closed_form(kernel, coupling, distribution, num):
    steps, runs = [1, 4, 16, 64], 200
    lr = 0.05 if kernel == "update" else 0.05 / factor(D, distribution, coupling, num)
    found = simulate(FEATURES, F0, Y, lr, 64, distribution, coupling, num, kernel, runs, seed=1, record=steps)
    mean_kernel = expected(FEATURES, distribution, coupling, num, kernel)
    wanted = evolve(F0, Y, mean_kernel, lr, steps)
    z = (found.mean(1) - wanted) / (found.std(1, ddof=1) / runs**0.5)
    assert np.abs(z).max() < 4


# Scipy's normal and signs drawn from a list: where vectors are short, many draw faster so than from the field.
@pytest.mark.parametrize(
    ("distribution", "kurtosis"), [(stats.norm(), 3.0), ([-1.0, 1.0], 1.0)], ids=["gaussian", "signs"]
)
def test_shared_vectors_accelerate_the_mean_as_predicted(distribution, kurtosis):
    lr = 1e-3
    found = {}
    for coupling in ("shared", "independent"):
        runs = simulate(FEATURES, F0, Y, lr, 60, distribution, coupling, kernel="nzk", runs=2500, seed=7)
        found[coupling] = measured_factor(runs, Y, FEATURES @ FEATURES.T, lr)
    (shared, shared_error), (independent, independent_error) = found["shared"], found["independent"]
    predicted = D - 1 + kurtosis
    assert shared == pytest.approx(predicted, abs=4 * shared_error)
    assert independent == pytest.approx(1.0, abs=4 * independent_error)
    assert shared / independent == pytest.approx(predicted, rel=0.02)


def test_low_rank_directions_through_several_tensors():
    features = RNG.standard_normal((N, 10))
    shapes, lr, runs = [(4, 2), (2,)], 0.002, 400
    found = simulate(features, F0, Y, lr, 8, kernel="nzk", runs=runs, record=[8], shapes=shapes, rank=1)
    wanted = evolve(F0, Y, expected(features, rank=1, shapes=shapes), lr, [8])
    z = (found.mean(1) - wanted) / (found.std(1, ddof=1) / runs**0.5)
    assert np.abs(z).max() < 4


def test_the_package_offers_the_function():
    assert recursion_function is recursion


Z = RNG.standard_normal((3, 2, D))
GOOD = factors(FEATURES, Z)
BAD = {
    "lr": (lambda: recursion(F0, Y, GOOD, -1.0), "lr must be positive and finite, got -1.0"),
    "momentum": (lambda: recursion(F0, Y, GOOD, 0.1, momentum=1.0), r"momentum must be in \[0, 1\), got 1.0"),
    "lengths": (lambda: recursion(F0[:3], Y, GOOD, 0.1), "f0 must have 9 elements, got 3"),
    "factors of other outputs": (lambda: recursion(F0[:3], Y[:3], GOOD, 0.1), r"must end in \[K, 3\]"),
    "no steps": (lambda: recursion(F0, Y, [], 0.1), "realised holds no step"),
    "beyond the end": (lambda: recursion(F0, Y, GOOD, 0.1, record=[1, 9]), "asks for step 9, but .* only 3"),
    "falling record": (lambda: recursion(F0, Y, GOOD, 0.1, record=[2, 1]), "record must ascend"),
    "vectors too short": (lambda: factors(FEATURES, Z[..., :2]), "d = 5 like the features"),
    "zeta of another shape": (lambda: factors(FEATURES, Z, Z[:1], "nzk"), "zeta has shape"),
    "zeta for the update": (lambda: factors(FEATURES, Z, Z), "leave zeta out"),
    "unknown kernel": (lambda: factors(FEATURES, Z, kernel="ntk"), "unknown kernel 'ntk'"),
    "unknown coupling": (
        lambda: simulate(FEATURES, F0, Y, 0.1, 1, coupling="none"),
        "unknown coupling 'none'",
    ),
    "no step to simulate": (lambda: simulate(FEATURES, F0, Y, 0.1, 0), "steps must be at least 1, got 0"),
    "targets missing": (lambda: simulate(FEATURES, F0, Y[:4], 0.1, 1), "y must have 9 elements, got 4"),
    "runs of another shape": (
        lambda: measured_factor(np.zeros((3, N)), Y, np.eye(N), 0.1),
        r"f must be \[steps \+ 1, runs, 9\]",
    ),
    "nothing to learn": (
        lambda: measured_factor(np.ones((3, 2, N)) * Y, Y, np.eye(N), 0.1),
        "does not map to zero",
    ),
}


@pytest.mark.parametrize(("call", "match"), BAD.values(), ids=BAD)
def test_bad_input_is_refused(call, match):
    with pytest.raises(ValueError, match=match):
        call()


def test_counts_are_integers():
    with pytest.raises(TypeError, match=r"runs must be an int, got 1\.5"):
        simulate(FEATURES, F0, Y, 0.1, 1, runs=1.5)


def test_dense_of_the_update_kernel_averages():
    left = np.ones((1, 4, 2))
    np.testing.assert_array_equal(Factors(left, left).dense(), np.ones((1, 2, 2)))
