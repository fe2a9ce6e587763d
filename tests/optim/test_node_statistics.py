"""The estimate from noise on layers' outputs over many draws: its mean and its squared error."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import zo_triton as zo
from zo_triton import nzk

DRAWS = 2000


def network_and_batch():
    """13 nodes a sample, and a batch of 16."""
    generator = torch.Generator().manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 5))
    with torch.no_grad():
        for param in net.parameters():
            param.copy_(torch.randn(param.shape, generator=generator) / param.shape[-1] ** 0.5)
    return net, torch.randn(16, 6, generator=generator), torch.randint(5, (16,), generator=generator)


def draws(net, x, y, num):
    """The estimates of as many steps, each from the same weights, float64 [draws, d]."""
    params = list(net.parameters())
    trainer = zo.FusedTrainer(
        net, torch.optim.SGD(params, lr=1.0), num, eps=1e-5, seed=5, perturb="activations"
    )
    assert trainer.is_fused
    start = [param.detach().clone() for param in params]
    found = torch.empty(DRAWS, sum(param.numel() for param in params), dtype=torch.float64)
    for row in found:
        trainer.step(x, y)
        row.copy_(torch.cat([(old - new.detach()).flatten() for old, new in zip(start, params, strict=True)]))
        for old, new in zip(start, params, strict=True):
            new.data.copy_(old)
    return found


def gradient(net, x, y):
    grads = torch.autograd.grad(F.cross_entropy(net(x), y), list(net.parameters()))
    return torch.cat([grad.flatten() for grad in grads]).double()


@pytest.mark.parametrize("num", [3, 8], ids=["3 of 4 rows", "8 rows for 13 nodes"])
def test_the_mean_is_the_gradient_and_the_error_that_of_theory(num):
    net, x, y = network_and_batch()
    found, wanted = draws(net, x, y, num), gradient(net, x, y)

    scores = (found.mean(0) - wanted) / (found.std(0) / DRAWS**0.5).clamp(min=1e-7)
    assert scores.abs().max() < 4.5

    model = nzk.linearize_nodes(net, x)
    logits = torch.tensor(model.outputs).view(16, 5).requires_grad_()
    F.cross_entropy(logits, y, reduction="sum").backward()
    order = zo.Directions(0, 0, num, "hadamard").order
    error = nzk.gradient_error(model, logits.grad.flatten(), num, order=order)
    squares = (found - wanted).square().sum(1)
    assert abs(squares.mean() - error) < 4.5 * squares.std() / DRAWS**0.5
