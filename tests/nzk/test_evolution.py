import numpy as np
import pytest
import torch

from zo_triton.nzk.evolution import evolve, gradient_flow, losses

N = 7
RNG = np.random.default_rng(1)
FEATURES = RNG.standard_normal((N, 4))
NTK = FEATURES @ FEATURES.T
F0, Y = RNG.standard_normal(N), RNG.standard_normal(N)
LR = 0.3
DEFECTIVE = 2.0 * np.eye(N) + np.eye(N, k=1)

KERNELS = {
    "symmetric, of rank 4 of 7": NTK,
    "not symmetric: an empirical kernel": NTK + 0.3 * RNG.standard_normal((N, N)),
    "without a basis of eigenvectors": DEFECTIVE,
    "complex eigenvalues": 2.0 * np.eye(N) + np.triu(np.ones((N, N)), 1) - np.tril(np.ones((N, N)), -1),
}


def step_by_step(kernel: np.ndarray, lr: float, steps: int) -> np.ndarray:
    """The definition: every step of the mean, one after the other."""
    rows = [F0]
    for _ in range(steps):
        rows.append(rows[-1] - lr / N * kernel @ (rows[-1] - Y))
    return np.stack(rows)


@pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS)
def test_any_list_of_steps_is_the_iterated_step(kernel):
    wanted = step_by_step(kernel, LR, 100)
    steps = [31, 0, 100, 1, 31, 64, 63]
    np.testing.assert_allclose(evolve(F0, Y, kernel, LR, steps), wanted[steps], rtol=1e-11, atol=1e-12)


def test_a_million_steps_reach_what_the_kernel_can_reach():
    final = evolve(F0, Y, NTK, LR, [10**6])[0]
    null = np.eye(N) - FEATURES @ np.linalg.pinv(FEATURES)
    np.testing.assert_allclose(final, Y + null @ (F0 - Y), atol=1e-9)


@pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS)
def test_gradient_flow_is_the_limit_of_small_steps(kernel):
    fine = 10**6
    times = [2.5, 0.0, 10.0]
    wanted = evolve(F0, Y, kernel, LR / fine, [int(time * fine) for time in times])
    np.testing.assert_allclose(gradient_flow(F0, Y, kernel, LR, times), wanted, atol=1e-6)


def test_one_output_by_hand():
    assert evolve([3.0], [1.0], [[0.5]], 1.0, [2]) == pytest.approx(np.array([[1.5]]))
    assert gradient_flow([3.0], [1.0], [[0.5]], 1.0, [2.0]) == pytest.approx(np.array([[1 + 2 * np.exp(-1)]]))
    assert losses([[3.0], [1.0]], [1.0]) == pytest.approx(np.array([2.0, 0.0]))


def test_tensors_and_lists_are_taken():
    wanted = evolve(F0, Y, NTK, LR, [3])
    found = evolve(torch.tensor(F0), list(Y), torch.tensor(NTK), LR, np.array([3], np.uint8))
    np.testing.assert_array_equal(found, wanted)


def test_losses_are_half_the_mean_square():
    rows = RNG.standard_normal((3, N))
    np.testing.assert_allclose(losses(rows, Y), [np.mean((row - Y) ** 2) / 2 for row in rows], rtol=1e-14)


BAD = {
    "kernel not square": ({"kernel": NTK[:, :3]}, ValueError, r"kernel must be \[7, 7\]"),
    "kernel of another size": ({"kernel": NTK[:3, :3]}, ValueError, r"got shape \(3, 3\)"),
    "f0 of another length": ({"f0": F0[:3]}, ValueError, "f0 must have 7 elements, got 3"),
    "NaN": ({"y": Y * np.nan}, ValueError, "y has 7 value"),
    "lr zero": ({"lr": 0.0}, ValueError, "lr must be positive and finite, got 0.0"),
    "lr NaN": ({"lr": float("nan")}, ValueError, "lr must be positive and finite, got nan"),
    "lr infinite": ({"lr": float("inf")}, ValueError, "lr must be positive and finite"),
}


@pytest.mark.parametrize(("change", "error", "match"), BAD.values(), ids=BAD)
@pytest.mark.parametrize("function", [evolve, gradient_flow])
def test_bad_input_is_refused(function, change, error, match):
    arguments = {"f0": F0, "y": Y, "kernel": NTK, "lr": LR} | change
    with pytest.raises(error, match=match):
        function(**arguments, **{"steps" if function is evolve else "times": [1]})


@pytest.mark.parametrize(
    ("steps", "error", "match"),
    [
        ([1, -2], ValueError, "steps must not be negative, got -2"),
        ([0.5], TypeError, "steps must be integers"),
        ([], ValueError, "at least one step"),
        (5, ValueError, "steps must be a list"),
    ],
)
def test_bad_steps_are_refused(steps, error, match):
    with pytest.raises(error, match=match):
        evolve(F0, Y, NTK, LR, steps)


def test_negative_times_are_refused():
    with pytest.raises(ValueError, match="times must not be negative, got -1"):
        gradient_flow(F0, Y, NTK, LR, [0.0, -1.0])


def test_lengths_of_losses_must_agree():
    with pytest.raises(ValueError, match="f has 6 outputs a row, but y has 7"):
        losses(np.ones((2, 6)), Y)


@pytest.mark.parametrize("kernel", [NTK, DEFECTIVE], ids=["symmetric", "not symmetric"])
def test_divergence_beyond_float64_names_the_limit(kernel):
    largest = np.abs(np.linalg.eigvals(kernel)).max()
    with pytest.raises(ValueError, match=rf"lr must stay below 2n/λ = {2 * N / largest:.4g}"):
        evolve(F0, Y, kernel, 2 * 2 * N / largest, [10**6])
