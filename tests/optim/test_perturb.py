"""Steps of optimizers and trainers that perturb activations: what they move, keep, refuse and leave alone."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import zo_triton as zo
from zo_triton.optim.node_measure import NodeMeasurement

N, CLASSES = 12, 3
X = torch.randn(N, 6, generator=torch.Generator().manual_seed(0))
Y = torch.arange(N) % CLASSES


def network(dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, CLASSES))
    with torch.no_grad():
        for param in model.parameters():
            param.copy_(0.4 * torch.randn(param.shape, generator=generator))
    return model.to(dtype)


def loss_of(model):
    return lambda: F.cross_entropy(model(X.to(model[0].weight.dtype)).float(), Y)


def optimizer(model, **settings):
    settings = {"lr": 0.1, "directions": 16, "eps": 1e-3, "sides": 2, "perturb": "activations"} | settings
    return zo.ZOSGD(model.parameters(), **settings)


def weights(model):
    return [param.detach().clone() for param in model.parameters()]


@pytest.mark.parametrize("perturb", ["activations", "auto"])
def test_with_enough_directions_training_is_gradient_descent(perturb):
    ours, theirs = network(), network()
    opt = optimizer(ours, directions=128, momentum=0.9, weight_decay=0.01, perturb=perturb)
    sgd = torch.optim.SGD(theirs.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    for _ in range(5):
        loss = opt.step(loss_of(ours))
        sgd.zero_grad()
        exact = loss_of(theirs)()
        exact.backward()
        sgd.step()
        assert loss == pytest.approx(exact.item(), rel=1e-4)
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def test_a_layer_that_had_better_be_perturbed_at_its_weights_is_at_its_nodes_if_it_is_the_only_one():
    model, tokens, labels = nn.Linear(2, CLASSES), X[:4].view(1, 12, 2), Y

    def loss():
        return F.cross_entropy(model(tokens).flatten(0, 1), labels)

    params = list(model.parameters())
    exact = torch.autograd.grad(loss(), params)
    zo.estimate_gradient(loss, params, directions=64, eps=1e-5, perturb="auto")
    for param, gradient in zip(params, exact, strict=True):
        torch.testing.assert_close(param.grad, gradient, rtol=1e-3, atol=1e-4)


def convolutional():
    torch.manual_seed(1)
    layers = nn.Conv2d(1, 4, 2), nn.Tanh(), nn.Flatten(), nn.Linear(8, CLASSES)
    return nn.Sequential(nn.Unflatten(1, (1, 2, 3)), *layers)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("make", [network, convolutional])
@pytest.mark.parametrize("perturb", ["activations", "auto"])
def test_a_first_batch_is_used_without_its_bad_sample(perturb, make, value):
    ours, theirs, x = make(), make(), X.clone()
    x[4] = value
    good = torch.arange(N) != 4
    opt = optimizer(ours, directions=128, perturb=perturb)
    with pytest.warns(RuntimeWarning, match=f"1 of {N} samples are NaN or infinite"):
        opt.step(lambda: F.cross_entropy(ours(x), Y, reduction="none"))
    (F.cross_entropy(theirs(X[good]), Y[good], reduction="sum") / N).backward()
    torch.optim.SGD(theirs.parameters(), lr=0.1).step()
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("make", [network, convolutional])
def test_inputs_that_are_all_bad_are_refused_as_a_loss(make):
    model = make()
    with pytest.raises(zo.NonFiniteLossError, match="the loss is nan"):
        optimizer(model, perturb="auto").step(
            lambda: F.cross_entropy(model(X * torch.nan), Y, reduction="none")
        )


def test_what_the_latest_step_has_found():
    model = network()
    opt = optimizer(model)
    assert opt.distribution == "hadamard"
    opt.step(loss_of(model))
    assert isinstance(opt.last, NodeMeasurement)
    assert opt.last.differences.shape == (16, 2, N)
    assert opt.last.on_nodes == {0, 1, 2, 3}
    assert [g.shape for g in opt.last.gradients] == [p.shape for p in model.parameters()]


def test_measure_and_step_are_a_step():
    one, other = network(), network()
    first, second = optimizer(one), optimizer(other)
    for _ in range(3):
        first.step(loss_of(one))
        before = weights(other)
        second.measure(loss_of(other))
        assert all(map(torch.equal, before, other.parameters()))
        second.step()
    assert all(map(torch.equal, one.parameters(), other.parameters()))


def test_a_reloaded_run_goes_on_bit_for_bit():
    model = network()
    opt = optimizer(model, momentum=0.9)
    for _ in range(3):
        opt.step(loss_of(model))
    again = network()
    again.load_state_dict(model.state_dict())
    resumed = optimizer(again, momentum=0.9, perturb="weights")
    resumed.load_state_dict(pickle.loads(pickle.dumps(opt.state_dict())))
    assert resumed.perturb == "activations"
    for one, its_model in ((opt, model), (resumed, again)):
        for _ in range(3):
            one.step(loss_of(its_model))
    assert all(map(torch.equal, model.parameters(), again.parameters()))
    assert copy.deepcopy(opt).last is None


def test_a_state_of_before_there_was_a_choice_perturbs_weights():
    model = network()
    opt = optimizer(model, perturb="weights", distribution="rademacher")
    saved = opt.state_dict()
    del saved["zo"]["perturb"]
    opt.load_state_dict(saved)
    assert opt.perturb == "weights"


@pytest.mark.parametrize("low_precision", ["master", "stochastic"])
def test_weights_in_bfloat16(low_precision):
    model = network(torch.bfloat16)
    opt = optimizer(model, directions=64, lr=0.5, low_precision=low_precision)
    losses = [opt.step(loss_of(model)) for _ in range(40)]
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_a_failed_step_leaves_everything(reduction):
    model = network()
    opt = optimizer(model, momentum=0.9)
    opt.step(loss_of(model))
    before, state, random = weights(model), opt.state_dict(), torch.get_rng_state()
    with pytest.raises(zo.NonFiniteLossError):
        opt.step(lambda: F.cross_entropy(model(F.dropout(X)) * torch.inf, Y, reduction=reduction))
    assert all(map(torch.equal, before, model.parameters()))
    assert opt.state_dict()["zo"] == state["zo"]
    assert torch.equal(torch.get_rng_state(), random)


BAD = {
    "a choice there is not": ({"perturb": "nodes"}, "perturb must be one of"),
    "real-valued noise": ({"distribution": "gaussian"}, "draws signs, one of .*got distribution='gaussian'"),
    "low rank": ({"distribution": "rademacher", "rank": 2}, "can't have low-rank directions, got rank=2"),
    "an aggregator of directions": ({"aggregator": "best"}, "got aggregator='best'"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_does_not_go_together_is_refused(name):
    settings, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        optimizer(network(), **settings)


@pytest.mark.parametrize("name", list(BAD)[1:])
def test_it_is_refused_between_steps_as_well(name):
    model = network()
    opt = optimizer(model)
    opt.step(loss_of(model))
    before = weights(model)
    for key, value in BAD[name][0].items():
        setattr(opt, key, value)
    with pytest.raises(ValueError, match=BAD[name][1]):
        opt.step(loss_of(model))
    assert all(map(torch.equal, before, model.parameters()))


def test_a_black_box_and_coefficients_are_refused():
    opt = optimizer(network())
    with pytest.raises(ValueError, match="can't be seen into"):
        opt.step(zo.BlackBox(lambda: 1.0))
    with pytest.raises(ValueError, match="no K coefficients make it"):
        opt.apply(torch.zeros(16))
    with pytest.raises(TypeError, match="is a `return` missing"):
        opt.step(lambda: None)


def test_a_log_is_refused(tmp_path):
    model = network()
    with pytest.raises(ValueError, match="a log holds K numbers a step"):
        zo.ReplayLog.start(tmp_path / "log.zo", optimizer(model))
    opt = optimizer(model, perturb="weights")
    with zo.ReplayLog.start(tmp_path / "log.zo", opt):
        opt.step(loss_of(model))
        opt.perturb = "activations"
        with pytest.raises(ValueError, match="keep checkpoints instead"):
            opt.step(loss_of(model))


def test_gradients_for_any_optimizer():
    model = network()
    params = list(model.parameters())
    for step in range(3):
        directions = zo.Directions(0, step, 64, "hadamard")
        loss = zo.estimate_gradient(
            loss_of(model), params, directions, eps=1e-4, sides=2, perturb="activations"
        )
        exact = torch.autograd.grad(loss_of(model)(), params)
        for param, gradient in zip(params, exact, strict=True):
            torch.testing.assert_close(param.grad, gradient, rtol=1e-3, atol=1e-5)
        assert loss == pytest.approx(loss_of(model)().item(), rel=1e-5)
    with pytest.raises(ValueError, match="choose 'hadamard'"):
        zo.estimate_gradient(
            loss_of(model), params, zo.Directions(0, 0, 4, "gaussian"), eps=1e-4, perturb="auto"
        )


def test_a_trainer_takes_any_model():
    convolution = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, CLASSES))
    image = torch.randn(N, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    adam = torch.optim.Adam(convolution.parameters(), lr=0.02)
    trainer = zo.FusedTrainer(convolution, adam, directions=64, perturb="activations")
    losses = [trainer.step(image, Y) for _ in range(30)]
    assert trainer.why_general() is not None
    assert losses[-1] < 0.5 * losses[0]
    state = trainer.state_dict()
    trainer.load_state_dict(state)
    trainer.step(image, Y)
