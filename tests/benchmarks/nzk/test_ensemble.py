"""The ensemble draws reduced vectors by their exact laws; naive simulations and the library's theory check them."""

import numpy as np
import pytest

from benchmarks.nzk.comparison import best_signs
from benchmarks.nzk.ensemble import measure_ratio, run_ensemble
from benchmarks.nzk.prediction import (
    best_moments,
    best_stable_rate,
    mean_losses,
    mean_path_losses,
    method_moments,
    rate_at,
    stable_limit,
)
from benchmarks.nzk.problems import Problem
from benchmarks.nzk.settings import GAUSSIAN, Noise
from zo_triton import nzk

RUNS = 4000
NOISES = {
    "gaussian": GAUSSIAN,
    "half": Noise("normal(0.5)", "normal", 0.5),
    "t": Noise("t(30)", "t", 30),
    "laplace": Noise("Laplace(0.6)", "laplace", 0.6),
}


@pytest.fixture(scope="module")
def problem():
    """More parameters (9) than modes (4), so that directions have a share outside."""
    generator = np.random.default_rng(3)
    features = generator.standard_normal((6, 4)) @ generator.standard_normal((4, 9)) / 3
    targets = generator.standard_normal(6)
    return Problem("p", "", None, features, np.zeros(6), targets, np.arange(6.0), "example")


CASES = [
    ("shared", "gaussian", 1),
    ("shared", "gaussian", 3),
    ("shared", "half", 1),
    ("independent", "gaussian", 1),
    ("independent", "laplace", 2),
    ("shared", "t", 1),
    ("update", "gaussian", 1),
    ("update", "gaussian", 5),
    ("best", "gaussian", 7),
]


@pytest.mark.parametrize(("method", "noise", "count"), CASES)
def test_factor_and_mean_loss_are_the_theorys(problem, method, noise, count):
    moments = method_moments(method, problem.size, NOISES[noise], count)
    # Well inside the stable range: near its limit the losses' own variance is infinite.
    lr = 0.1 * stable_limit(problem.modes, moments)
    record = [0, 1, 3, 10]
    found = run_ensemble(problem.modes, method, lr, record, RUNS, NOISES[noise], seed=1, directions=count)
    error = found.ratio.std(ddof=1) / np.sqrt(RUNS)
    assert abs(found.ratio.mean() - moments.mean) < 4 * error
    if not moments.diagonal:
        predicted = mean_losses(problem.modes, moments, lr, record)
        spread = found.losses.std(1, ddof=1)[1:] / np.sqrt(RUNS)
        assert found.losses[0] == pytest.approx(predicted[0])
        assert (np.abs(found.losses.mean(1)[1:] - predicted[1:]) < 4 * spread).all()


def test_the_best_of_k_full_directions_moves_as_predicted():
    """Naive: draw every coordinate of every direction and keep the steepest."""
    size, count, draws = 6, 5, 40_000
    generator = np.random.default_rng(0)
    gradient = generator.standard_normal(size)
    z = generator.standard_normal((draws, count, size))
    slopes = z @ gradient
    best = np.abs(slopes).argmax(1)
    rows = np.arange(draws)
    moves = slopes[rows, best][:, None] * z[rows, best]
    first, second = best_moments(count)
    error = moves.std(0, ddof=1) / np.sqrt(draws)
    assert (np.abs(moves.mean(0) - first * gradient) < 4 * error).all()
    outer = moves[:, :, None] * moves[:, None]
    wanted = (second - first) * np.outer(gradient, gradient) + first * gradient @ gradient * np.eye(size)
    assert (np.abs(outer.mean(0) - wanted) < 4.5 * outer.std(0, ddof=1) / np.sqrt(draws)).all()


def test_one_direction_is_its_own_best():
    assert best_moments(1) == pytest.approx((1.0, 3.0), rel=1e-6)


@pytest.mark.parametrize(("coupling", "noise", "count"), [("shared", "gaussian", 1), ("independent", "t", 2)])
def test_the_regression_measures_the_factor(problem, coupling, noise, count):
    measured, error = measure_ratio(problem.modes, coupling, NOISES[noise], count, 40_000, seed=2)
    assert abs(measured - nzk.factor(problem.size, NOISES[noise].law(), coupling, count)) < 4 * error


@pytest.mark.parametrize(
    ("method", "kernel", "coupling"),
    [("shared", "nzk", "shared"), ("independent", "nzk", "independent"), ("update", "update", "shared")],
)
def test_the_limit_is_the_librarys(problem, method, kernel, coupling):
    moments = method_moments(method, problem.size, GAUSSIAN, 2)
    wanted = nzk.max_stable_lr(problem.modes.curvatures, 2, coupling, kernel, problem.size)
    assert stable_limit(problem.modes, moments) == pytest.approx(wanted, rel=1e-9)


def test_the_mean_loss_is_the_librarys_spread(problem):
    moments = method_moments("shared", problem.size, GAUSSIAN, 1)
    steps, lr = [0, 2, 50], 0.3 * stable_limit(problem.modes, moments)
    wanted = nzk.spread(
        problem.outputs, problem.targets, problem.features, lr, steps, "gaussian", "shared", 1, "nzk"
    )
    assert mean_losses(problem.modes, moments, lr, steps) == pytest.approx(wanted / 12, rel=1e-9)


def test_the_mean_path_is_the_librarys_evolution(problem):
    moments = method_moments("first", problem.size, GAUSSIAN, 1)
    f = nzk.evolve(problem.outputs, problem.targets, problem.ntk, 0.1, [0, 5, 40])
    found = mean_path_losses(problem.modes, moments, 0.1, [0, 5, 40])
    assert found == pytest.approx(nzk.losses(f, problem.targets))


def test_a_best_rate_is_stable_and_beats_its_neighbours(problem):
    moments = method_moments("shared", problem.size, GAUSSIAN, 1)
    limit, best = best_stable_rate(problem.modes, moments, 100)
    assert 0 < best < limit
    finals = [rate_at(problem.modes, moments, share * limit, 100).final for share in (0.05, 0.9)]
    assert rate_at(problem.modes, moments, best, 100).final <= min(finals)


def test_a_hopeless_run_is_infinite_and_breaks_nothing(problem):
    moments = method_moments("shared", problem.size, GAUSSIAN, 1)
    lr = 300 * stable_limit(problem.modes, moments)
    found = run_ensemble(problem.modes, "shared", lr, [0, 400], 8, GAUSSIAN, seed=0)
    assert np.isinf(found.losses[1]).all()
    assert np.isfinite(found.ratio).all()
    assert rate_at(problem.modes, moments, lr, 400).final is None


def test_signs_along_many_even_coordinates_are_like_normals():
    found = best_signs(np.ones(2001), 10)
    # 4 000 maxima, whose deviation is about 2.
    assert found.mean() == pytest.approx(best_moments(10)[0], abs=4 * 2 / np.sqrt(4000))


def test_signs_along_one_coordinate_all_have_length_one():
    assert best_signs(np.array([0.0, -3.0]), 10) == pytest.approx(1.0)


def test_the_best_of_given_shares_moves_by_them(problem):
    many = run_ensemble(problem.modes, "best", 1e-4, [0, 4], RUNS, GAUSSIAN, 0, largest=np.array([2.5]))
    assert abs(many.ratio.mean() - 2.5) < 4 * many.ratio.std(ddof=1) / np.sqrt(RUNS)
