"""What keeps a step of FusedTrainer from being compiled, whenever it comes, and that it is honoured then."""

import types

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.modules import module as modules
from torch.optim import optimizer as optimizers

import zo_triton as zo

X = torch.randn(8, 6, generator=torch.Generator().manual_seed(0))
Y = torch.randint(4, (8,), generator=torch.Generator().manual_seed(1))


def mlp():
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4))


def trained(model=None, **settings):
    model = mlp() if model is None else model
    adam = torch.optim.Adam(model.parameters(), lr=0.01)
    trainer = zo.FusedTrainer(model, adam, directions=8, **settings)
    assert trainer.why_general() is None
    trainer.step(X, Y)
    return trainer


def halve(module, args, output):
    return output / 2


def halve_input(module, args):
    return (args[0] / 2,)


def halved_forward(self, x):
    return F.linear(x, self.weight, self.bias) / 2


def replace_on_instance(model):
    model[0].forward = types.MethodType(halved_forward, model[0])


def replace_on_class(model, monkeypatch):
    monkeypatch.setattr(nn.Linear, "forward", halved_forward)


FORWARDS = {
    "hook": lambda model, patch: model[0].register_forward_hook(halve),
    "pre-hook": lambda model, patch: model[2].register_forward_pre_hook(halve_input),
    "hook of the whole": lambda model, patch: model.register_forward_hook(halve),
    "forward of an instance": lambda model, patch: replace_on_instance(model),
    "forward of the class": replace_on_class,
    "global hook": lambda model, patch: modules.register_module_forward_hook(halve),
    "global pre-hook": lambda model, patch: modules.register_module_forward_pre_hook(halve_input),
}


@pytest.mark.parametrize("name", FORWARDS)
def test_what_changes_the_forward_between_two_steps_is_honoured(name, monkeypatch):
    trainer = trained()
    handle = FORWARDS[name](trainer.model, monkeypatch)
    try:
        assert "hook" in trainer.why_general() or "replaced forward" in trainer.why_general()
        expected = F.cross_entropy(trainer.model(X), Y).item()
        assert trainer.step(X, Y) == pytest.approx(expected, rel=1e-6)
    finally:
        if handle is not None:
            handle.remove()


def clip(optimizer, args, kwargs):
    for group in optimizer.param_groups:
        for param in group["params"]:
            param.grad.clamp_(-1e-3, 1e-3)


def test_gradients_clipped_in_a_hook_of_the_step_are_clipped():
    model = mlp()
    sgd = torch.optim.SGD(model.parameters(), lr=1.0)
    trainer = zo.FusedTrainer(model, sgd, directions=8)
    assert trainer.is_fused
    for register in (sgd.register_step_pre_hook, optimizers.register_optimizer_step_pre_hook):
        handle = register(clip)
        assert trainer.why_general() == (
            "the step pre-hook clip"
            if register == sgd.register_step_pre_hook
            else "the global step pre-hook clip"
        )
        before = [param.detach().clone() for param in model.parameters()]
        trainer.step(X, Y)
        moved = [
            (param - old).abs().max().item() for param, old in zip(model.parameters(), before, strict=True)
        ]
        assert 0 < max(moved) <= 1.001e-3
        handle.remove()
        assert trainer.is_fused


def test_hooks_after_the_step_and_a_replaced_step_are_called():
    trainer = trained()
    calls = []
    handle = trainer.optimizer.register_step_post_hook(lambda *_: calls.append("hook"))
    assert "step post-hook" in trainer.why_general()
    trainer.step(X, Y)
    handle.remove()
    own = trainer.optimizer.step
    trainer.optimizer.step = lambda closure=None: (calls.append("step"), own(closure))[1]
    assert "replaced step" in trainer.why_general()
    trainer.step(X, Y)
    assert calls == ["hook", "step"]


def test_a_class_whose_step_was_replaced_is_seen(monkeypatch):
    trainer = trained()
    own = torch.optim.Adam.step
    monkeypatch.setattr(torch.optim.Adam, "step", lambda self, closure=None: own(self, closure))
    assert "replaced step" in trainer.why_general()


def test_a_scheduler_is_no_replaced_step():
    trainer = trained()
    torch.optim.lr_scheduler.StepLR(trainer.optimizer, 5)
    assert trainer.is_fused


def load_with_assign(trainer):
    trainer.model.load_state_dict({k: v.clone() for k, v in trainer.model.state_dict().items()}, assign=True)


PARAMETERS = {
    "assign": load_with_assign,
    "new layer": lambda trainer: trainer.model.__setitem__(2, nn.Linear(5, 4)),
    "one more layer": lambda trainer: trainer.model.extend([nn.ReLU(), nn.Linear(4, 4)]),
    "new weight": lambda trainer: setattr(trainer.model[0], "weight", nn.Parameter(torch.ones(5, 6))),
    "frozen": lambda trainer: trainer.model[0].requires_grad_(False),
    "one more group": lambda trainer: trainer.optimizer.add_param_group(
        {"params": [nn.Parameter(torch.ones(2))]}
    ),
}


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("name", PARAMETERS)
def test_other_parameters_than_those_it_trains_are_refused(name, fused):
    trainer = trained()
    trainer.fused = fused
    PARAMETERS[name](trainer)
    assert not trainer.is_fused
    before = [param.detach().clone() for param in trainer.params]
    with pytest.raises(ValueError, match=r"no longer the 4 that the trainer was made with.*Make optimizer"):
        trainer.step(X, Y)
    assert trainer.steps_done == 1
    assert all(map(torch.equal, before, trainer.params))


def test_weights_loaded_in_place_go_on_compiled():
    trainer = trained()
    trainer.model.load_state_dict(mlp().state_dict())
    assert trainer.is_fused
    assert trainer.step(X, Y) == pytest.approx(F.cross_entropy(mlp()(X), Y).item(), rel=1e-5)


def test_the_label_that_cross_entropy_leaves_out_is_left_out():
    ends = []
    labels = Y.clone()
    labels[2:5] = -100
    kept = labels != -100
    for x, y in ((X, labels), (X[kept], Y[kept])):
        trainer = trained()
        loss = trainer.step(x, y)
        ends.append((loss, [param.detach().clone() for param in trainer.params]))
        assert trainer.is_fused
    torch.testing.assert_close(ends[0], ends[1], rtol=1e-4, atol=1e-4)


def test_settings_that_change_between_steps_are_those_of_the_next_step():
    trainers = [trained(), trained()]
    trainers[1].fused = False
    for trainer in trainers:
        trainer.eps, trainer.sides, trainer.directions = 1e-2, 2, 5
    assert trainers[0].is_fused
    losses = [trainer.step(X, Y) for trainer in trainers]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    for ours, theirs in zip(*(trainer.params for trainer in trainers), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)
    trainers[0].loss = lambda output, target: F.cross_entropy(output, target) * 2
    assert "loss" in trainers[0].why_general()
    assert trainers[0].step(X, Y) > 1.5 * trainers[1].step(X, Y)


def test_autocast_takes_the_general_way():
    trainer = trained()
    with torch.autocast("cpu"):
        assert trainer.why_general() == "autocast chooses the dtype"
    assert trainer.is_fused
