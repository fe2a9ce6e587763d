"""The compiled step with noise on layers' outputs against the general one."""

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import zo_triton as zo
from zo_triton.optim.errors import NonFiniteLossError


def mlp(*sizes):
    generator = torch.Generator().manual_seed(0)
    layers = []
    for inner, outer in pairwise(sizes):
        layers += [nn.Linear(inner, outer), nn.ReLU()]
    model = nn.Sequential(*layers[:-1])
    with torch.no_grad():
        for param in model.parameters():
            param.copy_(torch.randn(param.shape, generator=generator) / param.shape[-1] ** 0.5)
    return model


def batch(samples, features, classes, seed=0, loss=F.cross_entropy):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(samples, features, generator=generator)
    if loss is F.mse_loss:
        return x, torch.randn(samples, classes, generator=generator)
    return x, torch.randint(classes, (samples,), generator=generator)


def trainer_of(model, optimizer=None, **options):
    optimizer = optimizer or torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    options = {"directions": 9, "eps": 1e-3, "seed": 7, "perturb": "activations"} | options
    return zo.FusedTrainer(model, optimizer, **options)


@pytest.mark.parametrize("loss", [F.cross_entropy, F.mse_loss])
@pytest.mark.parametrize("sizes", [(5, 3), (64, 32, 10), (33, 18, 7, 4)], ids=["logistic", "digits", "deep"])
@pytest.mark.parametrize("name", ["adam", "sgd"])
@pytest.mark.parametrize("sides", [1, 2])
def test_compiled_step_is_the_general_step(name, sizes, sides, loss):
    ends = []
    for fused in (True, False):
        model = mlp(*sizes)
        adam = torch.optim.Adam(model.parameters(), lr=1e-2) if name == "adam" else None
        trainer = trainer_of(model, adam, sides=sides, fused=fused, loss=loss)
        assert trainer.why_general() == (None if fused else "fused is False")
        losses = [trainer.step(*batch(37, sizes[0], sizes[-1], seed, loss)) for seed in range(3)]
        ends.append((losses, [param.detach() for param in model.parameters()], trainer.optimizer))
    torch.testing.assert_close(ends[0][0], ends[1][0], rtol=1e-4, atol=1e-5)
    # Adam divides by the estimate's own size: rounding of a coordinate near zero moves it by a share of lr.
    for ours, theirs in zip(ends[0][1], ends[1][1], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=2e-4)
    states = [optimizer.state_dict()["state"] for *_, optimizer in ends]
    assert [set(state) for state in states[0].values()] == [set(state) for state in states[1].values()]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"perturb": "auto"}, "perturb is 'auto'"),
        ({"distribution": "rademacher"}, "the distribution is 'rademacher', not 'hadamard'"),
        ({"loss": F.l1_loss}, "the loss is neither F.cross_entropy nor F.mse_loss"),
    ],
)
def test_why_a_step_is_not_compiled_is_said(options, reason):
    assert reason in trainer_of(mlp(5, 4, 3), **options).why_general()


def test_samples_left_out_are_told():
    x, y = batch(9, 64, 10, loss=F.mse_loss)
    y[4] = 3e18  # whose square is a number yet, but the slope is beyond 2**60
    model = mlp(64, 32, 10)
    trainer = trainer_of(model, loss=F.mse_loss)
    before = [param.clone() for param in model.parameters()]
    with pytest.warns(RuntimeWarning, match=r"differences of 1 of 9 samples") as caught:
        trainer.step(x, y)
    assert caught[0].filename == __file__
    assert any(not torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))


def test_a_loss_that_is_no_number_is_refused_before_anything_moves():
    model = mlp(64, 32, 10)
    adam = torch.optim.Adam(model.parameters())
    trainer = trainer_of(model, adam)
    x, y = batch(9, 64, 10)
    x[3] = torch.inf
    before = [param.clone() for param in model.parameters()]
    with pytest.raises(NonFiniteLossError, match=r"the loss is .*, not finite"):
        trainer.step(x, y)
    assert trainer.steps_done == 0
    assert not adam.state
    for old, new in zip(before, model.parameters(), strict=True):
        assert torch.equal(old, new)


def test_a_batch_that_does_not_fit_is_refused():
    trainer = trainer_of(mlp(5, 4, 3))
    with pytest.raises(ValueError, match=r"x must be a batch \[N, 5\]"):
        trainer.step(torch.ones(2, 4), torch.zeros(2, dtype=torch.int64))
