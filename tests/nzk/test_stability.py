"""The limits against the recursion of the whole second moment, which knows nothing of eigenbases or roots."""

import numpy as np
import pytest
import torch

from zo_triton.nzk.fluctuation import step_moments
from zo_triton.nzk.function_space import factors, recursion
from zo_triton.nzk.rates import best_lr
from zo_triton.nzk.second_moment import eigenbasis_growth, second_moments, spread
from zo_triton.nzk.spectrum import hutchinson_trace, largest_eigenvalue
from zo_triton.nzk.stability import (
    best_rate,
    check_stable,
    lr_bounds,
    max_stable_lr,
    max_stable_lr_preconditioned,
)

N, D = 30, 12
RNG = np.random.default_rng(4)
FEATURES = RNG.standard_normal((N, D)) * np.linspace(0.4, 2.0, D)
HESSIAN = FEATURES.T @ FEATURES / N
VALUES = np.linalg.eigvalsh(HESSIAN)
ROTATION = np.linalg.qr(RNG.standard_normal((D, D)))[0]
KINDS = [("update", "shared"), ("nzk", "shared"), ("nzk", "independent")]
KIND_IDS = ["-".join(kind) for kind in KINDS]


@pytest.fixture(autouse=True)
def small_arrays(one_thread):
    """The arrays here are small enough for one thread."""


def test_gaussian_limits_solve_the_published_equations():
    limit = max_stable_lr(VALUES)
    assert np.sum(limit * VALUES / (2 * (1 - limit * VALUES))) == pytest.approx(1.0, rel=1e-10)
    for num in (1, 8, 64):
        limit = max_stable_lr(VALUES, num)
        share = limit * VALUES / (2 * num - (num + 1) * limit * VALUES)
        assert share.sum() == pytest.approx(1.0, rel=1e-10)
        assert share.min() > 0


def test_many_directions_are_first_order_descent():
    assert max_stable_lr(VALUES, 10**9) * VALUES.max() == pytest.approx(2.0, rel=1e-6)
    for momentum in (0.5, 0.9):
        limit = max_stable_lr(VALUES, 10**9, momentum=momentum)
        assert limit * VALUES.max() == pytest.approx(2 * (1 + momentum), rel=1e-6)


@pytest.mark.parametrize(
    "values", [[1.0], [1.0] * 50, [1e-6, 1.0], VALUES], ids=["one", "equal", "spread", "random"]
)
def test_bounds_hold(values):
    trace, largest = np.sum(values), np.max(values)
    assert lr_bounds(trace, largest) == pytest.approx(
        (2 / (trace + 2 * largest), min(2 / trace, 2 / (3 * largest)))
    )
    for num, (kernel, coupling) in ((num, kind) for num in (1, 8) for kind in KINDS):
        limit = max_stable_lr(values, num, coupling, kernel, size=50)
        lower, upper = lr_bounds(trace, largest, num, coupling, kernel, size=50)
        assert lower * (1 - 1e-9) <= limit <= upper * (1 + 1e-9)
    for momentum in (0.5, 0.9, 0.99):
        limit = max_stable_lr(values, 8, momentum=momentum)
        lower, upper = lr_bounds(trace, largest, 8, momentum=momentum)
        assert lower * (1 - 1e-9) <= limit <= upper * (1 + 1e-9)


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.99])
@pytest.mark.parametrize("distribution", ["gaussian", "rademacher", "laplace", "sphere", "hadamard"])
def test_no_bound_is_beyond_gradient_descents(distribution, momentum):
    generator = np.random.default_rng(0)
    for num in (1, 3, 30, 1000):
        values = generator.exponential(size=7) ** 3
        limit = max_stable_lr(values, num, size=50, distribution=distribution, momentum=momentum)
        lower, upper = lr_bounds(
            values.sum(), values.max(), num, size=50, distribution=distribution, momentum=momentum
        )
        assert lower * (1 - 1e-9) <= limit <= upper * (1 + 1e-9)
        assert upper <= 2 * (1 + momentum) / values.max() * (1 + 1e-9)


def test_the_bounds_close_in_on_the_limit_as_directions_are_added():
    values = [3.0, 1.0, 0.2]
    limit = max_stable_lr(values, 1000)
    assert limit == pytest.approx(0.6656, abs=1e-3)
    assert lr_bounds(4.2, 3.0, 1000) == pytest.approx((limit, limit), rel=2e-3)


@pytest.mark.parametrize("momentum", ["a", None])
@pytest.mark.parametrize(
    "call",
    [
        lambda b: lr_bounds(2.0, 1.0, momentum=b),
        lambda b: max_stable_lr([1.0], momentum=b),
        lambda b: max_stable_lr_preconditioned(np.eye(2), [1.0, 1.0], momentum=b),
        lambda b: recursion(np.zeros(2), np.ones(2), [], 0.1, momentum=b),
    ],
)
def test_a_momentum_that_is_no_number_is_refused_by_name(call, momentum):
    with pytest.raises(TypeError, match=rf"momentum must be a number in \[0, 1\), got {momentum!r}"):
        call(momentum)


@pytest.mark.parametrize(("kernel", "coupling"), KINDS, ids=KIND_IDS)
@pytest.mark.parametrize("num", [1, 4])
@pytest.mark.parametrize("distribution", ["gaussian", "rademacher", "laplace"])
def test_the_second_moment_turns_at_the_limit(kernel, coupling, num, distribution):
    """By the recursion of E rrᵀ itself; the limit is exact for Gaussian vectors, else diag(A) is averaged."""
    moments = step_moments(D, distribution, num, coupling, kernel)
    features = np.linalg.qr(RNG.standard_normal((D, D)))[0] * np.linspace(1.0, 3.0, D) @ ROTATION
    values = np.linalg.eigvalsh(features.T @ features / D)
    limit = max_stable_lr(values, num, coupling, kernel, D, distribution)

    def late_growth(share: float) -> float:
        rows = second_moments(np.ones(D), features, share * limit, moments)
        traces = [np.trace(second) for second, _ in zip(rows, range(801), strict=False)]
        return traces[800] / traces[790]

    assert late_growth(0.9) < 1
    assert late_growth(1.1) > 1
    if distribution == "gaussian":
        assert late_growth(1.0) == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("share", [0.9, 1.1])
@pytest.mark.parametrize("momentum", [0.0, 0.8])
def test_simulated_runs_have_the_predicted_second_moment(share, momentum):
    """Monte Carlo below and above η*: the mean square of 4 000 runs is the recursion's, falling or rising."""
    size, runs, steps = 24, 4000, 40
    generator = np.random.default_rng(6)
    features = np.linalg.qr(generator.standard_normal((size, size)))[0] * size**0.5
    limit = max_stable_lr(np.ones(size), 2, momentum=momentum)
    chunks = (factors(features, generator.standard_normal((1, runs, 2, size))) for _ in range(steps))
    start = generator.standard_normal(size)
    kept = [20, 40]
    found = recursion(start, np.zeros(size), chunks, share * limit, momentum, record=kept)
    squares = (found**2).sum(-1)
    _, totals = heavy_ball(
        np.eye(size), np.ones(size), share * limit, momentum, 2, steps, np.outer(start, start)
    )
    wanted = np.array([totals[step] for step in kept])
    z = (squares.mean(1) - wanted) / (squares.std(1, ddof=1) / runs**0.5)
    assert np.abs(z).max() < 4
    assert (squares[1].mean() < squares[0].mean()) == (share < 1)


def heavy_ball(hessian, preconditioner, lr, momentum, num, steps, start):
    """Second moments of θ ← θ - lr·D·v, v ← b·v + P̂Hθ, in full matrices: (late growth a step, E|θ_t|²)."""
    size = len(hessian)
    moments = step_moments(size, "gaussian", num)
    scale = np.asarray(preconditioner)
    square, cross, speed = start.copy(), np.zeros((size, size)), np.zeros((size, size))
    totals, log_scale = [np.trace(square)], 0.0
    for _ in range(steps):
        pulled = hessian @ square @ hessian
        gradient = moments.same * pulled + moments.trace * np.trace(pulled) * np.eye(size)
        mixed = momentum * hessian @ cross
        speed = momentum**2 * speed + mixed + mixed.T + gradient
        moved = momentum * cross + square @ hessian
        cross = moved - lr * scale[:, None] * speed
        square = square - lr * (moved * scale + (moved * scale).T) + lr**2 * scale[:, None] * speed * scale
        # Exactly symmetric in theory; an antisymmetric rounding error would grow by a law of its own.
        square = (square + square.T) / 2
        size_now = np.trace(square)
        square, cross, speed = square / size_now, cross / size_now, speed / size_now
        log_scale += np.log(size_now)
        totals.append(np.exp(log_scale))
    before = np.log(totals[-11]) if len(totals) > 10 else 0.0
    return (np.log(totals[-1]) - before) / 10, totals


PRECONDITIONERS = {"none": np.ones(D), "uneven": np.random.default_rng(8).uniform(0.2, 5.0, D)}


@pytest.mark.parametrize("preconditioner", PRECONDITIONERS.values(), ids=PRECONDITIONERS)
@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("num", [1, 4])
def test_momentum_and_frozen_adam_turn_at_the_limit(preconditioner, momentum, num):
    limit = max_stable_lr_preconditioned(HESSIAN, preconditioner, num, momentum)
    growth = {
        share: heavy_ball(HESSIAN, preconditioner, share * limit, momentum, num, 1500, np.eye(D))[0]
        for share in (0.95, 1.0, 1.05)
    }
    assert growth[0.95] < -1e-5
    assert growth[1.05] > 1e-5
    assert abs(growth[1.0]) < 1e-7
    if np.all(preconditioner == 1):
        assert limit == pytest.approx(max_stable_lr(VALUES, num, momentum=momentum), rel=1e-10)


def test_frozen_adam_by_monte_carlo():
    """θ itself, 4 000 runs: the preconditioned walk's mean square is the recursion's that the limit rests on."""
    size, runs, steps, momentum, num = 6, 4000, 15, 0.5, 2
    generator = np.random.default_rng(9)
    root = generator.standard_normal((size, size))
    hessian = root @ root.T / size
    scale = generator.uniform(0.3, 3.0, size)
    lr = 0.6 * max_stable_lr_preconditioned(hessian, scale, num, momentum)
    start = generator.standard_normal(size)
    theta, velocity = np.tile(start, (runs, 1)), np.zeros((runs, size))
    for _ in range(steps):
        z = generator.standard_normal((runs, num, size))
        slopes = np.einsum("rkd,rd->rk", z, theta @ hessian)
        velocity = momentum * velocity + np.einsum("rk,rkd->rd", slopes, z) / num
        theta = theta - lr * scale * velocity
    squares = (theta**2).sum(1)
    _, totals = heavy_ball(hessian, scale, lr, momentum, num, steps, np.outer(start, start))
    assert abs(squares.mean() - totals[-1]) < 4 * squares.std(ddof=1) / runs**0.5


def test_signs_in_one_and_two_dimensions():
    """d = 1: zz = 1, ordinary descent, limit 2/λ. d = 2: modes don't feed one another on average."""
    assert max_stable_lr([4.0], size=1, distribution="rademacher") == pytest.approx(0.5)
    assert max_stable_lr([4.0, 1.0], size=2, distribution="rademacher") == pytest.approx(2 / (2 * 4))
    assert max_stable_lr_preconditioned([[4.0]], [0.5], distribution="rademacher") == pytest.approx(1.0)
    assert lr_bounds(4.0, 4.0, size=1, distribution="rademacher") == pytest.approx((0.5, 0.5))


def test_zero_eigenvalues_do_not_count():
    assert max_stable_lr([0.0, 1.0, -1e-17]) == max_stable_lr([1.0]) == pytest.approx(2 / 3)
    assert max_stable_lr([0.0, 0.0]) == np.inf
    assert max_stable_lr_preconditioned(np.zeros((2, 2)), [1.0, 1.0]) == np.inf


def test_own_best_rate_spends_the_acceleration():
    update, shared, independent = (best_rate(VALUES, 1, coupling, kernel, D) for kernel, coupling in KINDS)
    assert shared.limit == pytest.approx(update.limit * (D + 2) / ((D + 4) * (D + 6)), rel=1e-10)
    assert shared.limit_step / update.limit_step == pytest.approx(
        (D + 2) ** 2 / ((D + 4) * (D + 6)), rel=1e-10
    )
    # β is d + 4 instead of 1, and α = 4 instead of 2 keeps a little more off.
    assert update.limit_step / independent.limit_step == pytest.approx(D, rel=0.05)
    assert update.log_decay < shared.log_decay < independent.log_decay < 0


def test_best_rate_is_the_best():
    found = best_rate(VALUES, 4)
    moments = step_moments(None, "gaussian", 4)

    def log_decay(lr: float) -> float:
        return float(np.log1p(np.linalg.eigvalsh(eigenbasis_growth(VALUES, lr, moments))[-1]))

    assert found.log_decay == pytest.approx(log_decay(found.lr))
    grid = [log_decay(share * found.limit) for share in np.linspace(0.01, 1, 100)]
    assert found.log_decay <= min(grid)


def test_best_lr_for_a_budget_is_the_best():
    y = FEATURES @ RNG.standard_normal(D)
    lr, loss = best_lr(np.zeros(N), y, FEATURES, 50)
    grid = np.linspace(0.01, 1, 100) * max_stable_lr(VALUES)
    losses = [spread(np.zeros(N), y, FEATURES, rate, [50])[0] / (2 * N) for rate in grid]
    assert loss <= min(losses) * (1 + 1e-6)
    assert loss == pytest.approx(spread(np.zeros(N), y, FEATURES, lr, [50])[0] / (2 * N))


def test_an_unstable_rate_is_told_before_the_run():
    limit = max_stable_lr(VALUES, 2)
    assert check_stable(0.99 * limit, VALUES, 2) == limit
    with pytest.raises(ValueError, match=rf"is unstable: .* from lr {limit:.6g} on .* 2 direction"):
        check_stable(1.01 * limit, VALUES, 2)
    assert check_stable(1.01 * limit, VALUES, 2, allow_unstable=True) == limit


def test_hutchinson_and_the_largest_eigenvalue():
    exact = hutchinson_trace(lambda v: np.diag(VALUES) @ v, D, 5)
    assert exact.value == pytest.approx(VALUES.sum())
    assert exact.standard_error == pytest.approx(0.0, abs=1e-12)
    dense = torch.tensor(HESSIAN)
    found = hutchinson_trace(lambda v: dense @ torch.tensor(v), D, 4000, seed=1)
    assert abs(found.value - VALUES.sum()) < 4 * found.standard_error
    # Signs: the variance of zᵀAz is twice the sum of squares off the diagonal.
    variance = 2 * (np.sum(HESSIAN**2) - np.sum(np.diag(HESSIAN) ** 2))
    assert found.standard_error == pytest.approx((variance / 4000) ** 0.5, rel=0.1)
    for size in (1, 3, 4, D):
        block = HESSIAN[:size, :size]
        wanted = np.linalg.eigvalsh(block)[-1]
        assert largest_eigenvalue(lambda v, m=block: m @ v, size) == pytest.approx(wanted, rel=1e-5)


BAD = {
    "negative": (lambda: max_stable_lr([1.0, -0.1]), "eigenvalues must not be negative, got -0.1"),
    "too many": (lambda: max_stable_lr([1.0, 1.0], size=1), "2 nonzero eigenvalues can't come from 1"),
    "NaN": (lambda: max_stable_lr([np.nan]), "eigenvalues has 1 value"),
    "momentum": (lambda: max_stable_lr([1.0], momentum=-0.1), r"momentum must be in \[0, 1\), got -0.1"),
    "size": (lambda: max_stable_lr([1.0], kernel="nzk"), "size is needed"),
    "no direction": (lambda: max_stable_lr([1.0], 0), "num_directions must be at least 1"),
    "hessian not square": (lambda: max_stable_lr_preconditioned(np.ones((2, 3)), [1.0]), "must be square"),
    "hessian not symmetric": (
        lambda: max_stable_lr_preconditioned([[1.0, 1.0], [0.0, 1.0]], [1.0, 1.0]),
        "hessian must be symmetric",
    ),
    "hessian indefinite": (
        lambda: max_stable_lr_preconditioned(-np.eye(2), [1.0, 1.0]),
        "must not be negative",
    ),
    "preconditioner": (
        lambda: max_stable_lr_preconditioned(np.eye(2), [1.0, 0.0]),
        "must be positive, got 0",
    ),
    "trace": (lambda: lr_bounds(1.0, 2.0), "needs 0 < largest <= trace"),
    "lr": (lambda: check_stable(float("nan"), [1.0]), "lr must be positive and finite, got nan"),
    "flat": (lambda: best_rate([0.0]), "every eigenvalue is zero"),
    "no features": (lambda: best_lr([0.0], [1.0], [[0.0]], 5), "every feature is zero"),
    "one probe": (lambda: hutchinson_trace(lambda v: v, 3, 1), "num must be at least 2, got 1"),
    "matvec": (lambda: hutchinson_trace(lambda v: v[:2], 3), "matvec's result must have 3 elements, got 2"),
    "matvec of ARPACK": (lambda: largest_eigenvalue(lambda v: v[:2], 9), "must have 9 elements, got 2"),
}


@pytest.mark.parametrize(("call", "match"), BAD.values(), ids=BAD)
def test_bad_input_is_refused(call, match):
    with pytest.raises(ValueError, match=match):
        call()
