"""Training foretold, against training: mean losses by z-score, single runs by their share in the band."""

import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import zo_triton as zo
from zo_triton.nzk import predict

RUNS = 40
STEPS = [0, 1, 4, 12]


@pytest.fixture
def problem():
    draw = torch.Generator().manual_seed(0)
    x, y = torch.randn(6, 20, generator=draw), torch.randn(6, 2, generator=draw)
    model = torch.nn.Linear(20, 2)
    with torch.no_grad():
        model.weight.copy_(0.1 * torch.randn(2, 20, generator=draw))
        model.bias.zero_()
    return model, x, y


def trained(model, x, y, seed, loss=F.mse_loss, **settings):
    """Losses of a run before the steps of STEPS."""
    net = copy.deepcopy(model)
    opt = zo.ZOSGD(net.parameters(), directions=4, seed=seed, **settings)
    found = [opt.step(lambda: loss(net(x), y)) for _ in range(STEPS[-1] + 1)]
    return [found[step] for step in STEPS]


@pytest.mark.parametrize(
    "settings",
    [
        {"lr": 0.03},
        {"lr": 0.03, "distribution": "gaussian"},
        {"lr": 0.01, "momentum": 0.8},
    ],
    ids=["signs", "gaussian", "momentum"],
)
def test_what_happens_is_what_was_foretold(settings, problem):
    model, x, y = problem
    told = predict(model, x, y, zo.ZOSGD(model.parameters(), directions=4, **settings), STEPS, runs=2000)
    found = np.array([trained(*problem, seed, **settings) for seed in range(RUNS)])
    assert told.losses[-1] < 0.6 * told.losses[0]
    assert found[0, 0] == pytest.approx(told.losses[0], rel=1e-6)
    z = (found.mean(0) - told.losses)[1:] / (found.std(0, ddof=1)[1:] / math.sqrt(RUNS))
    assert np.abs(z).max() < 4
    inside = ((found > told.low) & (found < told.high)).sum(0)[1:]
    # Binomial with 40 runs and nine tenths: fewer than 27 in the band once in 10 000.
    assert inside.min() >= 27
    assert inside.sum() < 3 * RUNS


def test_a_network_near_its_linearisation(problem):
    _, x, y = problem
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(20, 256), torch.nn.Tanh(), torch.nn.Linear(256, 2))
    opt = zo.ZOSGD(model.parameters(), lr=1e-3, directions=64)
    told = predict(model, x, y, opt, 10)
    found = [opt.step(lambda: F.mse_loss(model(x), y)) for _ in range(11)]
    assert told.losses[-1] < 0.95 * told.losses[0]
    np.testing.assert_allclose(found, told.losses, rtol=0.02)


def test_the_theorys_loss_is_half_of_torchs(problem):
    model, x, y = problem
    half = predict(model, x, y, zo.ZOSGD(model.parameters(), lr=0.04, directions=4), STEPS, loss="squared")
    whole = predict(model, x, y, zo.ZOSGD(model.parameters(), lr=0.02, directions=4), STEPS)
    np.testing.assert_allclose(2 * half.losses, whole.losses)
    np.testing.assert_allclose(2 * half.high, whole.high)


def test_an_unstable_rate_is_foretold_to_grow(problem):
    model, x, y = problem
    told = predict(model, x, y, zo.ZOSGD(model.parameters(), lr=10.0, directions=4), [0, 10, 1_000])
    assert told.losses[1] > 1e6 * told.losses[0]
    assert told.losses[2] == math.inf
    assert "→ inf at step 1000" in str(told)


def test_nothing_is_changed(problem):
    model, x, y = problem
    before, opt = copy.deepcopy(model.state_dict()), zo.ZOSGD(model.parameters(), lr=0.02)
    predict(model, x, y, opt, 3)
    assert opt.steps_done == 0
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"aggregator": "align"}, "foretold for aggregator = 'average' only, got 'align'"),
        ({"rank": 1}, "foretold for rank = None only, got 1"),
        ({"perturb": "activations"}, "foretold for perturb = 'weights' only"),
        ({"weight_decay": 0.1}, "foretold for weight_decay = 0 only, got 0.1"),
        ({"maximize": True}, "foretold for maximize = False only"),
    ],
)
def test_what_has_no_such_kernel_is_refused(settings, message, problem):
    model, x, y = problem
    with pytest.raises(ValueError, match=message):
        predict(model, x, y, zo.ZOSGD(model.parameters(), lr=0.1, **settings), 3)


def test_other_arguments_are_refused(problem):
    model, x, y = problem
    opt = zo.ZOSGD(model.parameters(), lr=0.1)
    with pytest.raises(TypeError, match=r"optimizer must be a zo\.ZOSGD.*got SGD"):
        predict(model, x, y, torch.optim.SGD(model.parameters()), 3)
    with pytest.raises(ValueError, match="holds 1 tensors that are not the model's 2"):
        predict(model, x, y, zo.ZOSGD([model.weight], lr=0.1), 3)
    with pytest.raises(ValueError, match="y must have 12 elements, got 6"):
        predict(model, x, y[:, 0], opt, 3)
    with pytest.raises(ValueError, match=r"steps must ascend, got \[3, 1\]"):
        predict(model, x, y, opt, [3, 1])
    with pytest.raises(ValueError, match="unknown loss 'cross_entropy'"):
        predict(model, x, y, opt, 3, loss="cross_entropy")
