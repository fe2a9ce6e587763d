"""A convolution that waits for its activation: fused, made piece by piece under a pool, or asked for after all."""

import pytest
import torch
import torch.nn.functional as F
from difference_oracle import expected_of_module, relative_error
from torch import nn

import zo_triton as zo
from zo_triton import ops
from zo_triton.difference import Evaluation, differences, propagate
from zo_triton.difference import run as run_module

DIRECTIONS = zo.Directions(seed=3, step=1, num=5)
IMAGE = torch.randn(3, 2, 9, 7, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """Two convolutions; ``use`` says what the loss reads of them."""

    def __init__(self, use):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.use = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 3, 3), use

    def forward(self):
        return self.use(self, IMAGE.to(self.first.weight.dtype))


def pooled(net, x):
    return F.max_pool2d(F.relu(net.second(F.max_pool2d(F.gelu(net.first(x)), 2))), (2, 1)).sum((1, 2, 3))


def skip_over_the_pool(net, x):
    h = F.relu(net.first(x))
    return F.max_pool2d(h, 2).sum((1, 2, 3)) + h.square().sum((1, 2, 3))


def before_and_after_the_activation(net, x):
    z = net.first(x)
    h = torch.tanh(z)
    return F.max_pool2d(h, 2).sum((1, 2, 3)) + (z * h).sum((1, 2, 3))


def overwritten(net, x):
    h = F.relu(net.first(x), inplace=True)
    return F.max_pool2d(h.mul_(2.0), 3, 2, 1).sum((1, 2, 3))


def input_overwritten_while_waiting(net, x):
    h = x.clone()
    z = net.first(h)
    h.zero_()
    return F.max_pool2d(F.silu(z), 2).sum((1, 2, 3)) + h.sum()


USES = (
    pooled,
    skip_over_the_pool,
    before_and_after_the_activation,
    overwritten,
    input_overwritten_while_waiting,
)


@pytest.mark.parametrize("sides", [1, 2])
@pytest.mark.parametrize("budget", [run_module.BUDGET_CPU, 4 * 4 * 63 * 4], ids=["whole", "in pieces"])
@pytest.mark.parametrize("use", USES, ids=lambda use: use.__name__)
def test_against_float64(use, budget, sides, monkeypatch):
    monkeypatch.setattr(run_module, "BUDGET_CPU", budget)
    net = Net(use)
    value, found = differences(net, net.parameters(), DIRECTIONS, 1e-3, sides)
    expected = expected_of_module(net, lambda each: each(), DIRECTIONS, 1e-3, sides)
    assert found.shape[0] == 5
    assert relative_error(found, expected.view(found.shape)) <= 2e-6
    assert torch.equal(value, net())


def test_pool_takes_a_few_directions_at_a_time_from_the_same_memory(monkeypatch):
    each = 3 * 4 * 63 * 4
    monkeypatch.setattr(run_module, "BUDGET_CPU", 2 * 2 * each)
    made = []
    real = ops.perturbed_conv2d

    def spy(*args, **kwargs):
        made.append((kwargs["activation"], real(*args, **kwargs)))
        return made[-1][1]

    monkeypatch.setattr(ops, "perturbed_conv2d", spy)
    net = Net(lambda net, x: F.max_pool2d(F.gelu(net.first(x)), 3).sum((1, 2, 3)))
    found = propagate(net, list(net.parameters()), DIRECTIONS, Evaluation(1e-3))
    assert found.plan.chunk == 5
    assert [(activation, piece.shape[0]) for activation, piece in made] == [
        ("gelu", 2),
        ("gelu", 2),
        ("gelu", 1),
    ]
    assert len({piece.data_ptr() for _, piece in made}) == 1


def test_next_step_does_not_start_twice_when_a_pooled_activation_is_read_again():
    net, runs = Net(skip_over_the_pool), []

    def closure():
        runs.append(1)
        return net()

    once = propagate(closure, list(net.parameters()), DIRECTIONS, Evaluation(1e-3))
    assert len(runs) == 2
    again = propagate(closure, list(net.parameters()), DIRECTIONS, Evaluation(1e-3), plan=once.plan)
    assert len(runs) == 3
    torch.testing.assert_close(again.differences, once.differences, rtol=1e-5, atol=1e-9)


def test_unread_convolution_is_never_computed(monkeypatch):
    calls = []
    monkeypatch.setattr(ops, "perturbed_conv2d", lambda *args, **kwargs: calls.append(args))
    net = Net(lambda net, x: net.first(x).argmax() * 0.0 + net.second.bias.sum())
    differences(net, net.parameters(), DIRECTIONS, 1e-3)
    assert calls == []
