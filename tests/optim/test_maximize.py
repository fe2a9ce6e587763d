"""``maximize`` climbs what the closure returns, exactly as descending its negative does."""

import copy

import pytest
import torch

import zo_triton as zo

SETTINGS = [
    pytest.param({}, id="plain"),
    pytest.param({"momentum": 0.9, "weight_decay": 0.1}, id="momentum and weight decay"),
    pytest.param({"perturb": "activations"}, id="activations"),
]


@pytest.mark.parametrize("settings", SETTINGS)
def test_climbing_is_descending_the_negative(settings, model, bits):
    x, twin = torch.arange(20.0).view(4, 5) / 20, copy.deepcopy(model)

    def of_samples(net):
        return net(x).square().sum(1)

    up = zo.ZOSGD(model.parameters(), lr=0.05, directions=8, maximize=True, **settings)
    down = zo.ZOSGD(twin.parameters(), lr=0.05, directions=8, **settings)
    reduced = (lambda losses: losses) if "perturb" in settings else torch.sum
    for _ in range(3):
        reward = up.step(lambda: reduced(of_samples(model)))
        assert reward == -down.step(lambda: reduced(-of_samples(twin)))
    assert bits(list(model.parameters())) == bits(list(twin.parameters()))


def test_stochastic_rounding_climbs_too():
    weight = torch.zeros(32, dtype=torch.bfloat16)
    opt = zo.ZOSGD([weight], lr=0.1, directions=64, low_precision="stochastic", maximize=True)
    opt.step(lambda: weight.float().sum())
    assert weight.float().mean() > 0


def test_a_group_may_climb_alone():
    up, down = torch.zeros(4), torch.zeros(4)
    opt = zo.ZOSGD(
        [{"params": [up], "maximize": True}, {"params": [down]}], lr=0.1, sides=2, aggregator="align"
    )
    opt.step(lambda: up.sum() + down.sum())
    torch.testing.assert_close(up, torch.full((4,), 0.1))
    torch.testing.assert_close(down, torch.full((4,), -0.1))


def test_a_state_of_before_descends():
    """A state dict of a version without the option has none in its groups."""
    opt = zo.ZOSGD([torch.ones(2)], lr=0.1)
    state = opt.state_dict()
    del state["param_groups"][0]["maximize"]
    opt.load_state_dict(state)
    assert opt.param_groups[0]["maximize"] is False
