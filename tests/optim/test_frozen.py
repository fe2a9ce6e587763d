"""Tensors with requires_grad=False move as well; who mixes them with others is told so once."""

import copy
import warnings

import pytest
import torch

import zo_triton as zo

MESSAGE = (
    r"2 of the 4 tensors to be trained have requires_grad=False and will move all the same.*p\.requires_grad"
)


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Linear(3, 1))
    model[0].requires_grad_(False)
    return model


def loss(model):
    return model(torch.ones(2, 3)).square().sum()


def test_an_optimizer_of_some_frozen_tensors(model):
    with pytest.warns(UserWarning, match=MESSAGE) as told:
        optimizer = zo.ZOSGD(model.parameters(), lr=0.1, directions=2)
    assert told[0].filename == __file__
    before = model[0].weight.clone()
    optimizer.step(lambda: loss(model))
    assert not torch.equal(model[0].weight, before)
    zo.ZOSGD(model.parameters(), lr=0.1)  # once is enough


def test_a_gradient_of_some_frozen_tensors(model):
    def estimate(step):
        return zo.estimate_gradient(lambda: loss(model), model.parameters(), zo.Directions(0, step, 2), 1e-3)

    with pytest.warns(UserWarning, match=MESSAGE):
        estimate(0)
    estimate(1)
    assert model[0].weight.grad is not None


def test_who_means_it_is_not_told(model):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        zo.ZOSGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
        zo.ZOSGD(copy.deepcopy(model).requires_grad_(False).parameters(), lr=0.1)
        zo.ZOSGD([torch.ones(2), torch.ones(3)], lr=0.1)


def test_a_trainer_whose_optimizer_holds_frozen_tensors(model):
    with pytest.raises(ValueError, match=r"holds 4 tensors that are not the model's 2 .*p\.requires_grad"):
        zo.FusedTrainer(model, torch.optim.Adam(model.parameters()))
    before = model[0].weight.clone()
    adam = torch.optim.Adam([p for p in model.parameters() if p.requires_grad])
    zo.FusedTrainer(model, adam, loss=torch.nn.functional.mse_loss).step(torch.ones(2, 3), torch.ones(2, 1))
    assert torch.equal(model[0].weight, before)
