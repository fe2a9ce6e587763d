"""Monte Carlo kernels against a loop over draws, and their standard errors against theory."""

import numpy as np
import pytest
from scipy import stats

from zo_triton.nzk import draw, empirical, expected, factor

pytestmark = pytest.mark.usefixtures("one_thread")

FEATURES = np.random.default_rng(0).standard_normal((3, 12))


def one_by_one(features, distribution, coupling, count, kernel, draws, seed, **tensors):
    """The definition of both kernels, a draw, a direction and an entry at a time."""
    kernels = np.zeros((draws, len(features), len(features)))
    vectors = count * (2 if coupling == "independent" and kernel == "nzk" else 1)
    for b in range(draws):
        drawn = draw(distribution, vectors, features.shape[1], seed, first=b * vectors, **tensors)
        z, zeta = drawn[:count], drawn[-count:]
        for k in range(count):
            if kernel == "update":
                kernels[b] += np.outer(features @ z[k], features @ z[k]) / count
                continue
            for j in range(count):
                outer = np.outer(features @ zeta[k], features @ z[j])
                kernels[b] += (zeta[k] @ z[j]) * outer / count**2
    return kernels


@pytest.mark.parametrize("coupling", ["shared", "independent"])
@pytest.mark.parametrize("kernel", ["nzk", "update"])
# 9: one more than are squared by pairs.
@pytest.mark.parametrize("count", [1, 3, 9])
@pytest.mark.parametrize(
    ("distribution", "tensors"),
    [
        ("gaussian", {}),
        (stats.expon(), {}),
        ("sphere", {"shapes": [(2, 4), (4,)], "rank": 2}),
        (np.array([-1.0, 0.5, 2.0]), {"shapes": [(4, 3)], "rank": 1}),
    ],
    ids=["field", "scipy", "several-tensors", "samples"],
)
def test_agrees_with_the_definition(coupling, kernel, count, distribution, tensors):
    kernels = one_by_one(FEATURES, distribution, coupling, count, kernel, 7, 3, **tensors)
    found = empirical(FEATURES, distribution, coupling, count, kernel, num_draws=7, seed=3, **tensors)
    np.testing.assert_allclose(found.mean, kernels.mean(0), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found.standard_error, kernels.std(0, ddof=1) / 7**0.5, rtol=1e-5, atol=1e-5)
    traces = np.trace(kernels, axis1=1, axis2=2)
    assert found.trace == pytest.approx(traces.mean(), rel=1e-5)
    assert found.trace_error == pytest.approx(traces.std(ddof=1) / 7**0.5, rel=1e-5)
    assert found.num_draws == 7


@pytest.mark.parametrize("count", [1, 3, 9])
def test_chunks_change_nothing_but_rounding(count, monkeypatch):
    whole = empirical(FEATURES, stats.t(10), "independent", count, num_draws=131)
    # One kernel of 3 × 3, or two draws of 36 values at most: every chunk is the smallest there is.
    monkeypatch.setattr("zo_triton.nzk.estimation.CHUNK_VALUES", 9)
    cut = empirical(FEATURES, stats.t(10), "independent", count, num_draws=131)
    np.testing.assert_allclose(cut.mean, whole.mean, rtol=1e-11)
    np.testing.assert_allclose(cut.standard_error, whole.standard_error, rtol=1e-9)
    assert cut.trace == pytest.approx(whole.trace, rel=1e-12)


@pytest.mark.parametrize("count", [1, 4])
def test_standard_errors_of_the_gaussian_update_kernel(count):
    # Var K̂_ij = (K_ii K_jj + K_ij²)/K, which sums to the fluctuation (tr² + ‖NTK‖²)/K.
    found = empirical(FEATURES, stats.norm(), num_directions=count, kernel="update", num_draws=100_000)
    ntk = FEATURES @ FEATURES.T
    variance = (np.outer(np.diag(ntk), np.diag(ntk)) + ntk**2) / count
    # A sample variance of squared Gaussians is off by 1 %, here.
    np.testing.assert_allclose(found.standard_error**2 * found.num_draws, variance, rtol=0.05)
    # Var tr K̂ = 2‖NTK‖²/K.
    assert found.trace_error**2 * found.num_draws == pytest.approx(2 * np.sum(ntk**2) / count, rel=0.05)


@pytest.mark.parametrize(
    ("coupling", "kernel", "count"),
    [("shared", "update", 1), ("shared", "nzk", 2), ("independent", "nzk", 1)],
)
def test_z_scores_have_unit_spread(coupling, kernel, count):
    """200 estimates of 1 000 draws: mean square of z of 1, within 4.5 of its own deviation √(2/200)."""
    uniform = stats.uniform(-1.0, 2.0)
    wanted = expected(FEATURES, uniform, coupling, count, kernel)
    scores = np.array(
        [
            empirical(FEATURES, uniform, coupling, count, kernel, 1000, seed).z_scores(wanted)
            for seed in range(200)
        ]
    )
    assert np.abs(np.square(scores).mean(0) - 1).max() < 4.5 * (2 / 200) ** 0.5
    assert np.abs(scores.mean(0)).max() < 4.5 / 200**0.5


@pytest.mark.parametrize(
    "distribution", ["rademacher", "gaussian", "uniform", "laplace", "sphere", stats.t(12)]
)
def test_the_paper_size_agrees_with_theory(distribution):
    """A network of the paper's size, d = 711 and 10 000 draws: entries, and the factor by the trace."""
    features = np.random.default_rng(1).standard_normal((20, 711))
    for coupling, kernel in (("shared", "nzk"), ("independent", "nzk"), ("shared", "update")):
        found = empirical(features, distribution, coupling, kernel=kernel, seed=5)
        assert np.abs(found.z_scores(expected(features, distribution, coupling, kernel=kernel))).max() < 4.5
        size = np.sum(features**2)
        predicted = factor(711, distribution, coupling, kernel=kernel)
        assert abs(found.trace / size - predicted) < 4.5 * found.trace_error / size


def test_nothing_random_is_judged_exactly():
    # One sign: z² = 1, every draw the same kernel.
    found = empirical([[2.0], [3.0]], "rademacher", num_draws=10)
    assert found.standard_error.max() == 0
    assert np.abs(found.z_scores([[4.0, 6.0], [6.0, 9.0]])).max() < 1
    assert np.abs(found.z_scores([[4.0, 6.0], [6.0, 9.1]])).max() > 1e6
    nothing = empirical([[0.0, 0.0]], num_draws=10)
    assert nothing.z_scores([[0.0]]).item() == 0
    assert nothing.z_scores([[1.0]]).item() == np.inf


def test_seeds_matter_and_repeat():
    first, again, other = (empirical(FEATURES, num_draws=50, seed=seed).mean for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"features": np.ones(3)}, ValueError, "features must have 2 dimension"),
        ({"features": [[np.nan, 1.0]]}, ValueError, "features has 1 value.* NaN"),
        ({"distribution": "normal"}, ValueError, "unknown distribution 'normal'; choose one of"),
        ({"coupling": "none"}, ValueError, r"unknown coupling 'none'; choose one of \('shared'"),
        ({"kernel": "ntk"}, ValueError, r"unknown kernel 'ntk'; choose one of \('nzk', 'update'\)"),
        ({"num_directions": 0}, ValueError, "num_directions must be at least 1, got 0"),
        ({"num_draws": 1}, ValueError, "num_draws must be at least 2, got 1"),
        ({"num_draws": 1e4}, TypeError, "num_draws must be an int, got 10000.0"),
        ({"seed": -3}, ValueError, "seed must be in .* got -3"),
        ({"rank": 2}, ValueError, "rank 2 needs shapes"),
        ({"rank": 4, "shapes": [(4, 3)]}, ValueError, "rank 4 exceeds"),
        ({"shapes": [(4, 4)]}, ValueError, "hold 16 elements, but there are 12 columns"),
    ],
)
def test_bad_input(changes, error, message):
    with pytest.raises(error, match=message):
        empirical(**{"features": FEATURES, "num_draws": 4, **changes})


def test_z_scores_need_a_kernel_of_the_same_size():
    found = empirical(FEATURES, num_draws=4)
    with pytest.raises(ValueError, match=r"kernel must be \[3, 3\], got shape \(2, 2\)"):
        found.z_scores(np.eye(2))
