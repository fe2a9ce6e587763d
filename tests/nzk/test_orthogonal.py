"""The theory of weight perturbation for orthogonal directions: what it says of them, and what it refuses to say."""

import numpy as np
import pytest
import torch
from sign_draws import draw as draw_signs
from torch import nn

from zo_triton.nzk import draw, empirical_model, expected, factor, max_stable_lr, step_moments
from zo_triton.overlap import mean_overlap


@pytest.mark.parametrize("size", [1, 2, 5, 8, 11])
@pytest.mark.parametrize("num", [1, 3, 4, 8])
def test_the_moments_of_a_step_by_monte_carlo(size, num):
    """E P̂·A·P̂ in the mean of its elements on and off the diagonal; A has all kinds of entries."""
    generator, order = np.random.default_rng(size), 1 << (num - 1).bit_length()
    root = generator.standard_normal((size, size))
    matrix = root @ root.T + np.diag(np.arange(size))
    moments = step_moments(size, "hadamard", num)
    found = np.zeros((4000, 2))
    for place in range(len(found)):
        signs = draw_signs(generator, num, order, 1, np.arange(size))[0][:, 0]
        product = signs.T @ signs / num
        moved = product @ matrix @ product
        found[place] = np.trace(moved), moved.sum()
    trace, total = np.trace(matrix), matrix.sum()
    wanted = [
        moments.same * trace + moments.trace * trace * size + moments.diagonal * trace,
        moments.same * total + moments.trace * trace * size + moments.diagonal * trace,
    ]
    noise = np.maximum(found.std(0, ddof=1) / len(found) ** 0.5, 1e-12 * trace)
    exact = (
        size <= order
    )  # else each pair's overlap is replaced by their mean, which A's entries need not allow
    if exact:
        assert np.abs((found.mean(0) - wanted) / noise).max() < 4.5
    else:
        assert np.abs(found.mean(0) / wanted - 1).max() < 0.5


def test_one_direction_is_one_of_independent_signs():
    assert step_moments(7, "hadamard", 1) == step_moments(7, "rademacher", 1)
    assert factor(7, "hadamard") == factor(7, "rademacher")


def test_all_rows_of_a_large_enough_matrix_are_gradient_descent():
    assert step_moments(8, "hadamard", 8) == (1.0, 1.0, 0.0, 0.0, 8)
    assert max_stable_lr([1.0, 4.0], 8, size=8, distribution="hadamard") == pytest.approx(2 / 4)
    signs = max_stable_lr([1.0, 4.0], 8, size=8, distribution="rademacher")
    assert signs < max_stable_lr([1.0, 4.0], 7, size=8, distribution="hadamard") < 2 / 4


def test_the_limit_lies_above_that_of_independent_signs():
    values = np.linspace(0.1, 1, 40)
    for num in (4, 5, 16, 33):
        order = 1 << (num - 1).bit_length()
        assert mean_overlap(40, num, order) < 1 / num
        limits = [
            max_stable_lr(values, num, size=40, distribution=name) for name in ("rademacher", "hadamard")
        ]
        assert limits[0] < limits[1] <= 2


def test_what_it_does_not_know():
    features = np.eye(3)
    np.testing.assert_array_equal(expected(features, "hadamard", num_directions=4, kernel="update"), features)
    cases = [
        ("the NZK of 'hadamard' directions", lambda: expected(features, "hadamard", num_directions=2)),
        ("the NZK of 'hadamard' directions", lambda: expected(features, "hadamard", "independent")),
        ("the NZK of 'hadamard' directions", lambda: step_moments(3, "hadamard", 2, kernel="nzk")),
        ("belong to one step together", lambda: draw("hadamard", 2, 3, 0)),
        (
            "unknown distribution 'hadamard'",
            lambda: empirical_model(lambda: torch.zeros(1), nn.Linear(1, 1).parameters(), "hadamard"),
        ),
    ]
    for match, call in cases:
        with pytest.raises(ValueError, match=match):
            call()
