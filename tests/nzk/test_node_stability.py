"""The limits of activation perturbation against the recursion of the second moment, and that against simulation."""

import numpy as np
import pytest
import torch
from sign_draws import draw
from torch import nn

from zo_triton.nzk import linearize_nodes, max_stable_lr, max_stable_lr_linear, max_stable_lr_nodes
from zo_triton.nzk.nodes import NodeModel

SAMPLES = 6
COUNTS = [(1, None), (4, None), (4, 4), (3, 8), (8, 16)]
"""K and M. With 4 outputs 4 of 4 is exact; two layers have 8 nodes, two to a bucket of M = 4."""
COUNT_IDS = [f"{num}-{'independent' if order is None else order}" for num, order in COUNTS]


@pytest.fixture(autouse=True)
def small_tensors(one_thread):
    """The tensors here are small enough for one thread."""


def linearized(name: str) -> NodeModel:
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(2)
        nets = {
            "linear": nn.Linear(3, 4),
            "two layers": nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 2)),
        }
        return linearize_nodes(nets[name], torch.randn(SAMPLES, 3))


def step(model: NodeModel, second: np.ndarray, lr: float, pairs: np.ndarray) -> np.ndarray:
    """S ← E (I - hK̂)·S·(I - hK̂)ᵀ, term by term."""
    rate, width = lr / len(model.slopes), model.slopes.shape[1]
    mean = np.eye(len(second)) - rate * model.ntk
    rows = model.jacobian.reshape(len(second), -1)
    following = mean @ second @ mean
    for place, (slopes, inputs) in enumerate(zip(model.slopes, model.inputs, strict=True)):
        block = slice(place * width, (place + 1) * width)
        nodes = slopes.T @ second[block, block] @ slopes
        noise = np.diag(pairs @ np.diag(nodes)) + pairs * nodes
        walked = rate * rows @ inputs.T
        following += walked @ noise @ walked.T
    return following


def growth(model: NodeModel, lr: float, pairs: np.ndarray) -> float:
    """The spectral radius of a step on the second moment, as one matrix; what no weight can change left out."""
    values, modes = np.linalg.eigh(model.ntk)
    learnt = modes[:, values > 1e-9 * values[-1]]
    count = learnt.shape[1]
    columns = []
    for element in np.eye(count**2):
        moved = step(model, learnt @ element.reshape(count, count) @ learnt.T, lr, pairs)
        columns.append((learnt.T @ moved @ learnt).reshape(-1))
    return float(np.abs(np.linalg.eigvals(np.array(columns))).max())


@pytest.mark.parametrize(("num", "order"), COUNTS, ids=COUNT_IDS)
@pytest.mark.parametrize("name", ["linear", "two layers"])
def test_the_second_moment_turns_at_the_limit(name, num, order):
    model = linearized(name)
    limit, pairs = max_stable_lr_nodes(model, num, order), model.overlaps(num, order)
    assert growth(model, 0.99 * limit, pairs) < 1 - 1e-6
    assert growth(model, limit, pairs) == pytest.approx(1.0, abs=1e-8)
    assert growth(model, 1.01 * limit, pairs) > 1 + 1e-6


@pytest.mark.parametrize(("num", "order"), COUNTS, ids=COUNT_IDS)
@pytest.mark.parametrize("name", ["linear", "two layers"])
def test_a_step_of_the_second_moment_by_monte_carlo(name, num, order):
    model, draws = linearized(name), 1000
    generator, size = np.random.default_rng(num), len(model.outputs)
    lr, residual = (
        0.8 * max_stable_lr_nodes(model, num, order),
        np.random.default_rng(5).standard_normal(size),
    )
    found = np.empty((draws, size))
    for place in range(draws):
        signs, _ = draw(generator, num, order, SAMPLES, model.columns)
        found[place] = residual - lr / SAMPLES * model.kernel(signs) @ residual
    wanted = step(model, np.outer(residual, residual), lr, model.overlaps(num, order))
    squares = found[:, :, None] * found[:, None, :]
    noise = np.maximum(squares.std(0, ddof=1) / draws**0.5, 1e-12 * np.abs(wanted).max())
    assert np.abs((squares.mean(0) - wanted) / noise).max() < 5


@pytest.mark.parametrize("share", [0.9, 1.1])
@pytest.mark.parametrize(("num", "order"), [(2, None), (3, 4)])
def test_simulated_runs_fall_below_and_rise_above_the_limit(share, num, order):
    """500 runs of a linear model of 4 outputs whose samples learn alone, so that all have one limit."""
    inputs, outputs, runs, steps = np.eye(SAMPLES), 4, 500, 10
    lr = share * max_stable_lr_linear(inputs, outputs, num, order)
    generator = np.random.default_rng(7)
    residual, squares = np.ones((runs, SAMPLES, outputs)), []
    for _ in range(steps):
        signs = np.stack([draw(generator, num, order, SAMPLES, np.arange(outputs))[0] for _ in range(runs)])
        slopes = np.einsum("rkno,rno->rkn", signs, residual)
        residual = residual - lr / SAMPLES * np.einsum("rkn,rkno->rno", slopes, signs) / num
        squares.append((residual**2).sum((1, 2)))
    means = [square.mean() for square in squares]
    overlap = {(2, None): 3 / 2, (3, 4): 3 * (4 - 3) / (3 * 3)}[num, order]
    factor = (1 - lr / SAMPLES) ** 2 + (lr / SAMPLES) ** 2 * overlap
    assert (factor > 1) == (share > 1)
    for count, square in enumerate(squares, start=1):
        noise = square.std(ddof=1) / runs**0.5
        assert abs(square.mean() - SAMPLES * outputs * factor**count) < 4.5 * noise
    assert (means[-1] > means[0]) == (share > 1)


@pytest.mark.parametrize("outputs", [1, 4, 5])
@pytest.mark.parametrize(("num", "order"), COUNTS, ids=COUNT_IDS)
def test_the_linear_models_own_formula(outputs, num, order):
    """Also where 5 outputs share 4 rows: two of them then disturb each other alone."""
    generator = np.random.default_rng(4)
    inputs = generator.standard_normal((SAMPLES, 3))
    slopes = np.repeat(np.eye(outputs)[None], SAMPLES, 0)
    tangents = np.einsum("op,ni->nopi", np.eye(outputs), inputs).reshape(SAMPLES, outputs, -1)
    model = NodeModel(slopes, tangents, np.zeros(SAMPLES * outputs))
    found = max_stable_lr_linear(inputs, outputs, num, order)
    assert found == pytest.approx(max_stable_lr_nodes(model, num, order), rel=1e-6)


def test_limits_between_weights_and_gradient_descent():
    """Each step towards the gradient allows more: weights, nodes, orthogonal nodes, all rows."""
    generator = np.random.default_rng(9)
    inputs, outputs, num = generator.standard_normal((20, 8)), 10, 8
    values = np.repeat(np.linalg.eigvalsh(inputs.T @ inputs / 20), outputs)
    limits = [
        max_stable_lr(values, num, size=80, distribution="rademacher"),
        max_stable_lr_linear(inputs, outputs, num),
        max_stable_lr_linear(inputs, outputs, num, 16),
        max_stable_lr_linear(inputs, outputs, 16, 16),
    ]
    assert limits == sorted(limits)
    assert limits[0] < 0.3 * limits[1]
    assert limits[3] == pytest.approx(2 / values.max())


def test_nothing_to_learn_has_no_limit():
    assert max_stable_lr_linear(np.zeros((3, 2)), 2, 1) == np.inf
    assert max_stable_lr_nodes(NodeModel(np.ones((2, 1, 1)), np.zeros((2, 1, 3)), np.ones(2)), 1) == np.inf


def test_bad_input_is_refused():
    model = linearized("linear")
    mixed = NodeModel(model.slopes, model.inputs, model.outputs, np.ones((SAMPLES, 4, 2)))
    cases = [
        ("this one has 2; linearise", lambda: max_stable_lr_nodes(mixed, 1)),
        ("outputs must be at least 1, got 0", lambda: max_stable_lr_linear(np.eye(2), 0, 1)),
        ("at least num_directions = 3, got 2", lambda: max_stable_lr_linear(np.eye(2), 2, 3, 2)),
    ]
    for match, call in cases:
        with pytest.raises(ValueError, match=match):
            call()
