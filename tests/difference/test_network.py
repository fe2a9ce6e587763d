"""When a loss takes the whole network in one call, and when it must not."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import zo_triton as zo

X = torch.randn(13, 6, generator=torch.Generator().manual_seed(0))
Y = torch.randint(0, 4, (13,), generator=torch.Generator().manual_seed(1))
DIRECTIONS = zo.Directions(3, 0, 5)


@pytest.fixture
def calls(monkeypatch):
    """How often a whole network was evaluated at once."""
    seen, real = [], zo.ops.mlp_differences

    def spy(*args):
        seen.append(args)
        return real(*args)

    monkeypatch.setattr(zo.ops, "mlp_differences", spy)
    return seen


class Functional(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.last = nn.Linear(6, 9), nn.Linear(9, 9), nn.Linear(9, 4)

    def forward(self, x):
        x = torch.tanh(self.first(x))
        x = F.relu(self.second(x))
        return self.last(x)


class Residual(Functional):
    def forward(self, x):
        x = torch.tanh(self.first(x))
        return self.last(x + F.relu(self.second(x)))


class ReadTwice(Functional):
    def forward(self, x):
        z = self.first(x)
        return self.last(F.relu(self.second(torch.tanh(z)))) + z.sum(1, keepdim=True)


class InPlace(Functional):
    def forward(self, x):
        x = F.relu(self.first(x), inplace=True)
        return self.last(F.relu(self.second(x), inplace=True))


LOSSES = {
    "mean": lambda logits: F.cross_entropy(logits, Y),
    "sum-smoothed": lambda logits: F.cross_entropy(logits, Y, reduction="sum", label_smoothing=0.1),
    "weighted": lambda logits: F.cross_entropy(
        logits, Y, weight=torch.tensor([1.0, 2.0, 0.5, 1.0], dtype=logits.dtype)
    ),
    "some-ignored": lambda logits: F.cross_entropy(logits, Y, ignore_index=2),
    "each": lambda logits: F.cross_entropy(logits, Y, reduction="none"),
}


def _naive(model, closure, eps):
    """Differences in float64 by subtraction."""
    params, results = list(model.parameters()), []
    double = {name: p.detach().double() for name, p in model.named_parameters()}
    z = [zo.sample(DIRECTIONS, i, p.shape).double() for i, p in enumerate(params)]
    base = closure(torch.func.functional_call(model, double, X.double()))
    for k in range(DIRECTIONS.num):
        moved = {name: p + eps * z[i][k] for i, (name, p) in enumerate(double.items())}
        results.append(closure(torch.func.functional_call(model, moved, X.double())) - base)
    return torch.stack(results)


@pytest.mark.parametrize("name", LOSSES)
def test_every_kind_of_cross_entropy(name, calls):
    model = Functional()
    closure = LOSSES[name]
    _, found = zo.differences(lambda: closure(model(X)), model.parameters(), DIRECTIONS, 1e-3)
    expected = _naive(model, closure, 1e-3)
    assert len(calls) == 1
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_squared_error(reduction, calls):
    model = Functional()
    target = torch.sin(torch.arange(model(X).numel(), dtype=torch.float32)).view_as(model(X))

    def closure(out):
        return F.mse_loss(out, target.to(out.dtype), reduction=reduction).sum()

    _, found = zo.differences(lambda: closure(model(X)), model.parameters(), DIRECTIONS, 1e-3)
    expected = _naive(model, closure, 1e-3)
    assert len(calls) == (0 if reduction == "none" else 1)
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("kind", [Residual, ReadTwice, InPlace])
def test_other_networks_go_layer_by_layer(kind, calls):
    model = kind()
    _, found = zo.differences(lambda: LOSSES["mean"](model(X)), model.parameters(), DIRECTIONS, 1e-3)
    expected = _naive(model, LOSSES["mean"], 1e-3)
    assert not calls
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_a_hidden_layer_may_be_read_after_the_loss(calls):
    model = Functional()

    def closure():
        h = torch.tanh(model.first(X))
        loss = F.cross_entropy(model.last(F.relu(model.second(h))), Y)
        return loss + h.square().mean()

    _, found = zo.differences(closure, model.parameters(), DIRECTIONS, 1e-3)
    with zo.use_engine("reference"):
        _, expected = zo.differences(closure, model.parameters(), DIRECTIONS, 1e-3)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-8)


def test_a_very_deep_stack_of_layers_does_not_recurse_too_far():
    torch.manual_seed(0)
    layers = [layer for _ in range(600) for layer in (nn.Linear(4, 4), nn.Tanh())]
    model = nn.Sequential(*layers, nn.Linear(4, 4))
    x = X[:, :4]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    _, found = zo.differences(
        lambda: F.cross_entropy(model(x), Y), model.parameters(), zo.Directions(0, 0, 1), 1e-4
    )
    assert found.isfinite().all()
