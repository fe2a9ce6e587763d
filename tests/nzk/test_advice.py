import pytest
import torch
import torch.nn.functional as F
from torch import nn

import zo_triton as zo
from benchmarks.race.networks import make_mlp
from zo_triton.nzk import advise_lr, probe_lr

X = torch.randn(96, 6, generator=torch.Generator().manual_seed(0))
Y = X.sum(1, keepdim=True)
CLASSES = X[:, :3].argmax(1)


def sgd(model, momentum=0.0, perturb="weights"):
    return zo.ZOSGD(
        model.parameters(), lr=1e9, directions=8, eps=1e-3, seed=3, momentum=momentum, perturb=perturb
    )


def losses(model, opt, lr, steps):
    opt.param_groups[0]["lr"] = lr
    found = []
    for _ in range(steps):
        try:
            found.append(opt.step(lambda: F.cross_entropy(model(X), CLASSES)))
        except zo.NonFiniteLossError:
            found.append(float("inf"))
    return found


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_a_linear_model_whose_curvature_is_its_own_everywhere(momentum):
    model = make_mlp((6, 1), 1)
    limit = probe_lr(model, X[:16], 1.0, 8, "mse", momentum=momentum).upper
    advice = advise_lr(sgd(model, momentum), model, X, Y, "mse", steps=60)
    assert advice.start == pytest.approx(limit)
    assert advice.limit == pytest.approx(limit)
    assert advice.lr <= limit / 2
    assert advice.last < advice.first / 4
    assert f"lr = {advice.lr:.3g} held for 60 steps" in str(advice)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("perturb", ["weights", "activations"])
def test_half_of_it_learns_and_four_times_the_limit_does_not(momentum, perturb):
    """Four tanh layers, whose curvature grows by an order of magnitude as they learn.

    Nearly without noise, on activations, a rate above the limit that was met may find flatter places and settle
    there; four times that of the first weights does not.
    """

    def fresh():
        model = make_mlp((6, 24, 24, 24, 3), 0, nn.Tanh)
        return model, sgd(model, momentum, perturb)

    model, opt = fresh()
    advice = advise_lr(opt, model, X, CLASSES)
    assert advice.limit < advice.start / 3
    learnt = losses(*fresh(), advice.lr / 2, 300)
    assert learnt[-1] < learnt[0] / 2
    assert max(learnt) < 1.1 * learnt[0]
    above = advice.limit if perturb == "weights" else advice.start
    assert max(losses(*fresh(), 4 * above, 60)) > 1.5 * learnt[0]


def test_nothing_changes():
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))
    opt = sgd(model)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.random.fork_rng(devices=()):
        advise_lr(opt, model, X, CLASSES, steps=3)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(module.training for module in model.modules())
    assert opt.steps_done == 0
    assert opt.param_groups[0]["lr"] == 1e9


def test_the_squared_loss_is_half_of_torchs_times_the_outputs():
    model = make_mlp((6, 2), 1)
    targets = torch.cat([Y, -Y], 1)
    mine, torchs = (advise_lr(sgd(model), model, X, targets, loss, steps=2) for loss in ("squared", "mse"))
    assert mine.first == pytest.approx(torchs.first, rel=1e-5)
    assert mine.limit == pytest.approx(torchs.limit)


def test_bad_questions():
    model = make_mlp((6, 3), 1)
    with pytest.raises(TypeError, match=r"known for a zo\.ZOSGD, got ZOAdam"):
        advise_lr(zo.ZOAdam(model.parameters()), model, X, CLASSES)
    with pytest.raises(ValueError, match="x has 96 samples, but y has 5 targets"):
        advise_lr(sgd(model), model, X, CLASSES[:5])
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        advise_lr(sgd(model), model, X, CLASSES, steps=0)
    with pytest.raises(ValueError, match="loss"):
        advise_lr(sgd(model), model, X, CLASSES, loss="hinge")
    silent = nn.Linear(6, 1, bias=False)
    with pytest.raises(ValueError, match="the curvature is zero"):
        advise_lr(sgd(silent), silent, 0 * X, Y, "mse")


def test_no_rate_holds_where_the_loss_jumps_whatever_is_done(monkeypatch):
    monkeypatch.setattr("zo_triton.nzk.advice.MARGIN", 1.0)
    model = make_mlp((6, 1), 1)
    opt = sgd(model)
    opt.step = lambda closure: float("inf")
    monkeypatch.setattr("zo_triton.nzk.advice.deepcopy", lambda pair: pair)
    with pytest.raises(ValueError, match=r"no learning rate from .* held; look whether the loss falls"):
        advise_lr(opt, model, X, Y, "mse", steps=2)
