"""Kernels of torch models from finite differences: against their Jacobian, on a kink, and during training."""

import numpy as np
import pytest
import torch
from torch import nn

from zo_triton.nzk import empirical, empirical_model, expected, linearize

pytestmark = pytest.mark.usefixtures("one_thread")


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 1)), torch.randn(3, 4)


@pytest.mark.parametrize("coupling", ["shared", "independent"])
@pytest.mark.parametrize("kernel", ["nzk", "update"])
@pytest.mark.parametrize(
    ("count", "distribution", "rank"), [(1, "gaussian", None), (3, "rademacher", None), (2, "sphere", 1)]
)
def test_a_small_radius_gives_the_kernel_of_the_jacobian(coupling, kernel, count, distribution, rank):
    model, x = network()
    line = linearize(model, x)
    # 150 draws of up to six vectors: more than one batch of 256.
    settings = (distribution, coupling, count, kernel, 150, 9)
    wanted = empirical(line.features, *settings, rank=rank, shapes=line.shapes)
    found = empirical_model(lambda: model(x), model.parameters(), *settings, eps=1e-4, rank=rank)
    scale = np.abs(wanted.mean).max()
    np.testing.assert_allclose(found.mean, wanted.mean, rtol=0, atol=1e-5 * scale)
    np.testing.assert_allclose(found.standard_error, wanted.standard_error, rtol=1e-4)
    assert found.trace == pytest.approx(wanted.trace, rel=1e-5)
    assert (found.num_draws, found.mean.shape) == (150, (3, 3))


def test_a_kink_is_seen_from_both_sides():
    # relu at 0: the central difference is z/2 whatever ε, autograd says 0; E (z/2)² = 1/4.
    weight = torch.zeros(1)
    for eps in (1e-6, 1.0):
        found = empirical_model(
            lambda: torch.relu(weight), [weight], kernel="update", eps=eps, num_draws=2000
        )
        assert abs(found.z_scores([[0.25]])).item() < 4.5
        assert found.standard_error.item() < 0.01


def test_a_large_radius_gives_the_smoothed_model():
    # (sin(θ+εz) − sin(θ−εz))/2ε = cos θ·sin(εz)/ε, whose mean square is cos²θ·(1 − e^{−2ε²})/2ε².
    weight, eps = torch.tensor([0.3]), 0.8
    found = empirical_model(lambda: weight.sin(), [weight], kernel="update", eps=eps, num_draws=4000)
    wanted = np.cos(0.3) ** 2 * (1 - np.exp(-2 * eps**2)) / (2 * eps**2)
    assert abs(found.z_scores([[wanted]])).item() < 4.5
    assert abs(found.z_scores([[np.cos(0.3) ** 2]])).item() > 4.5


def train(model, x, y, steps, lr):
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    for _ in range(steps):
        optimizer.zero_grad()
        ((model(x).squeeze(1) - y) ** 2).mean().div(2).backward()
        optimizer.step()


def test_theorem_1_the_kernel_of_a_linear_model_stays():
    """Arbitrary seeds at step 0 and at step 1 000: two estimates of one kernel; a network's kernel moves."""
    torch.manual_seed(0)
    x, y = torch.randn(6, 10), torch.randn(6)
    line = nn.Linear(10, 1, bias=False)
    curved = nn.Sequential(nn.Linear(10, 8), nn.Tanh(), nn.Linear(8, 1))

    def kernels(model, coupling):
        return [
            empirical_model(
                lambda: model(x).squeeze(1),
                model.parameters(),
                "rademacher",
                coupling,
                num_draws=5000,
                seed=seed,
            )
            for seed in (1, 2)
        ]

    def gap(before, after):
        error = np.hypot(before.standard_error, after.standard_error)
        return np.abs((before.mean - after.mean) / error).max()

    starts = {coupling: kernels(line, coupling)[0] for coupling in ("shared", "independent")}
    bent = kernels(curved, "shared")[0]
    weights = line.weight.detach().clone()
    train(line, x, y, 1000, 0.05)
    train(curved, x, y, 1000, 0.05)
    assert (line.weight - weights).norm() > 0.1 * weights.norm()
    for coupling, before in starts.items():
        same, other = kernels(line, coupling)
        np.testing.assert_allclose(same.mean, before.mean, rtol=1e-4, atol=1e-4)
        assert gap(before, other) < 4.5
        assert np.abs(other.z_scores(expected(x, "rademacher", coupling))).max() < 4.5
    assert gap(bent, kernels(curved, "shared")[1]) > 4.5


def test_outputs_of_any_shape():
    weight = torch.ones(2, 3)
    single = empirical_model(lambda: weight.sum(), [weight], num_draws=3)
    assert single.mean.shape == (1, 1)
    table = empirical_model(lambda: weight * 2, [weight], num_draws=3)
    assert table.mean.shape == (6, 6)


def test_nothing_is_left_behind():
    model, x = network()
    before = [p.detach().clone() for p in model.parameters()]
    state = torch.get_rng_state()
    empirical_model(lambda: model(x), model.parameters(), num_draws=4)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(p, q) and p.grad is None for p, q in zip(model.parameters(), before, strict=True))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"distribution": "cauchy"}, ValueError, "unknown distribution 'cauchy'; choose one of.*'sphere'"),
        ({"coupling": 1}, ValueError, "unknown coupling 1; choose one of"),
        ({"kernel": "ntk"}, ValueError, "unknown kernel 'ntk'; choose one of"),
        ({"num_directions": 0}, ValueError, "num_directions must be at least 1, got 0"),
        ({"num_draws": 1}, ValueError, "num_draws must be at least 2, got 1"),
        ({"eps": 0.0}, ValueError, "eps must be positive and finite, got 0.0"),
        ({"seed": -1}, ValueError, "seed must be in"),
        ({"rank": 2}, ValueError, "rank 2 exceeds"),
        ({"params": []}, ValueError, "params is empty"),
        ({"params": [3.0]}, TypeError, "parameter 0 is no tensor"),
        ({"closure": lambda: torch.ones(2)}, ValueError, "used none of the 1 trained parameters"),
        ({"closure": lambda: 1.0}, TypeError, "closure"),
    ],
)
def test_bad_input(changes, error, message):
    weight = torch.ones(1, 3)
    with pytest.raises(error, match=message):
        empirical_model(**{"closure": lambda: weight.sum(1), "params": [weight], "num_draws": 2, **changes})
