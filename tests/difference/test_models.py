"""Whole models, unchanged, against finite differences in float64."""

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from difference_oracle import ENGINES, expected_of_module, median_relative_error, relative_error
from torch import nn

import zo_triton as zo
from zo_triton.difference import differences

GENERATOR = torch.Generator().manual_seed(0)
INPUTS = torch.randn(11, 7, generator=GENERATOR)
LABELS = torch.randint(0, 5, (11,), generator=GENERATOR)
ACTIVATIONS = {
    "relu": nn.ReLU(),
    "relu_inplace": nn.ReLU(inplace=True),
    "tanh": nn.Tanh(),
    "sigmoid": nn.Sigmoid(),
    "gelu": nn.GELU(),
    "gelu_tanh": nn.GELU(approximate="tanh"),
    "silu": nn.SiLU(),
    "leaky_relu": nn.LeakyReLU(),
}


def mlp(activation, widths=(7, 33, 17, 5)):
    """Widths next to the sizes at which a block of the field ends."""
    torch.manual_seed(0)
    layers = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs), activation]
    return nn.Sequential(*layers[:-1])


def cross_entropy(model):
    dtype = next(model.parameters()).dtype
    return F.cross_entropy(model(INPUTS.to(dtype)), LABELS)


def measure_both(model, loss_of, directions, eps, **settings):
    found = differences(lambda: loss_of(model), model.parameters(), directions, eps, **settings)[1]
    dtype = settings.get("compute_dtype", torch.float32)
    return found, expected_of_module(model, loss_of, directions, eps, settings.get("sides", 1), dtype)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-4), (torch.bfloat16, 2e-2)])
def test_accuracy_at_every_eps(engine, activation, dtype, bound):
    model = mlp(ACTIVATIONS[activation])
    directions = zo.Directions(seed=5, step=1, num=16)
    for eps in (1e-2, 1e-3, 1e-4, 1e-5, 1e-6):
        with zo.use_engine(engine):
            found, expected = measure_both(
                model, cross_entropy, directions, eps, sides=2, compute_dtype=dtype, strict=True
            )
        assert median_relative_error(found, expected) <= bound


@pytest.mark.parametrize("distribution", ["gaussian", "uniform", "laplace"])
@pytest.mark.parametrize("engine", ENGINES)
def test_other_distributions(engine, distribution):
    directions = zo.Directions(seed=5, step=1, num=5, distribution=distribution)
    with zo.use_engine(engine):
        found, expected = measure_both(mlp(nn.Tanh()), cross_entropy, directions, 1e-3)
    assert relative_error(found, expected) < 1e-5


def test_low_rank_and_first_direction():
    directions = zo.Directions(seed=5, step=1, num=8, rank=2)[3:]
    with zo.use_engine("reference"):
        found, expected = measure_both(mlp(nn.Tanh()), cross_entropy, directions, 1e-3)
    assert relative_error(found, expected) < 1e-5


def test_scales_default_to_those_of_the_sphere():
    model = mlp(nn.Tanh())
    directions = zo.Directions(seed=5, step=1, num=3, distribution="sphere")
    params = list(model.parameters())
    with zo.use_engine("reference"):
        scales = zo.ops.direction_scales(params, range(len(params)), directions)
        own = differences(lambda: cross_entropy(model), params, directions, 1e-3)[1]
        given = differences(lambda: cross_entropy(model), params, directions, 1e-3, scales=2 * scales)[1]
        doubled = differences(lambda: cross_entropy(model), params, directions, 2e-3)[1]
    torch.testing.assert_close(given, doubled)
    assert not torch.equal(own, given)


class Residual(nn.Module):
    """Each activation is read again after the layer that could have overwritten it."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.third = nn.Linear(7, 12), nn.Linear(12, 12), nn.Linear(12, 5)

    def forward(self, x):
        x = F.relu(self.first(x))
        x = x + F.relu(self.second(x))
        return self.third(x)


class ResidualInput(Residual):
    """The input is read again, but only through a view."""

    def forward(self, x):
        x = F.tanh(self.first(x))
        flat = x.view(-1)
        x = F.relu(self.second(x))
        return self.third(x + flat.view(x.shape))


class ReadsPreActivationTwice(Residual):
    """z·σ(z) by hand: the linear layer's own difference is needed after its sigmoid was fused."""

    def forward(self, x):
        x = F.relu(self.first(x))
        x = self.second(x)
        return self.third(x * torch.sigmoid(x))


class ForgetsThenReads(Residual):
    """As above, with the layer's input dead by then: its memory was given to the sigmoid."""

    def forward(self, x):
        z = nn.Sequential(self.first, nn.ReLU(), self.second)(x)
        return self.third(z * torch.sigmoid(z))


class Tied(nn.Module):
    """One weight in two layers, once transposed."""

    def __init__(self):
        super().__init__()
        self.encoder, self.head = nn.Linear(7, 7, bias=False), nn.Linear(7, 5)
        self.scale = nn.Parameter(torch.ones(7))

    def forward(self, x):
        x = torch.tanh(self.encoder(x)) * self.scale
        x = torch.tanh(F.linear(x, self.encoder.weight))
        x = torch.relu(x @ self.encoder.weight)
        return self.head(x @ self.encoder.weight.t() + 1)


class Branches(nn.Module):
    """Two heads read one body; one of them through softmax, in three dimensions."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Unflatten(1, (7, 1)), nn.Linear(1, 6), nn.SiLU())
        self.left, self.right = nn.Linear(42, 5), nn.Sequential(nn.Linear(6, 5), nn.Softmax(-1))

    def forward(self, x):
        body = self.body(x)
        return self.left(nn.Flatten()(body)) + self.right(body).mean(1)


class ParameterAsAnInput(nn.Module):
    """A trained prompt, and an in-place chain."""

    def __init__(self):
        super().__init__()
        self.prompt, self.layer = nn.Parameter(torch.randn(7)), nn.Linear(7, 5)

    def forward(self, x):
        h = self.layer(torch.relu(self.prompt)) + self.layer(x)
        h += x.sum(1, keepdim=True)
        h *= 2
        return h.tanh_()


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    "module",
    [Residual, ResidualInput, ReadsPreActivationTwice, ForgetsThenReads, Tied, Branches, ParameterAsAnInput],
)
def test_shapes_of_networks(engine, module):
    torch.manual_seed(1)
    model = module()
    directions = zo.Directions(seed=5, step=1, num=6)
    with zo.use_engine(engine):
        found, expected = measure_both(model, cross_entropy, directions, 1e-3, sides=2, strict=True)
    assert relative_error(found, expected) < 2e-5


def test_any_shape_of_value():
    model = mlp(nn.ReLU())
    directions = zo.Directions(seed=5, step=1, num=4)
    with zo.use_engine("reference"):
        for loss_of, shape in (
            (lambda m: m(INPUTS.to(m[0].weight.dtype)), (11, 5)),
            (lambda m: F.cross_entropy(m(INPUTS.to(m[0].weight.dtype)), LABELS, reduction="none"), (11,)),
        ):
            found, expected = measure_both(model, loss_of, directions, 1e-3, sides=2)
            assert found.shape == (4, 2, *shape)
            assert relative_error(found, expected) < 1e-5


def test_unused_parameters_keep_their_place_in_the_list():
    model = mlp(nn.ReLU())
    unused = nn.Parameter(torch.ones(3))
    params = [unused, *model.parameters()]
    directions = zo.Directions(seed=5, step=1, num=4)
    with zo.use_engine("reference"):
        found = differences(lambda: cross_entropy(model), params, directions, 1e-3)[1]

        class Both(nn.Module):
            def __init__(self):
                super().__init__()
                self.unused, self.model = unused, model

        expected = expected_of_module(Both(), lambda both: cross_entropy(both.model), directions, 1e-3)
    assert relative_error(found, expected) < 1e-5


def test_control_flow_and_numbers_see_the_base():
    model = mlp(nn.ReLU())
    seen = []

    def closure():
        logits = model(INPUTS)
        seen.append((logits.detach().clone(), logits.argmax(1), float(logits[0, 0]), f"{logits.sum():.3f}"))
        return logits.sum() if logits[0, 0] > 0 else -logits.sum()

    with zo.use_engine("reference"):
        value, _ = differences(closure, model.parameters(), zo.Directions(0, 0, 3), 1e-3)
    with torch.no_grad():
        expected = closure()
    assert torch.equal(value, expected)
    assert torch.equal(seen[0][0], seen[1][0])
    assert torch.equal(seen[0][1], seen[1][1])
    assert seen[0][2:] == seen[1][2:]


def test_nothing_is_modified():
    model = mlp(nn.ReLU(inplace=True))
    before = [parameter.detach().clone() for parameter in model.parameters()]
    inputs = INPUTS.clone()
    differences(lambda: model(inputs).sum(), model.parameters(), zo.Directions(0, 0, 3), 1e-2)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert torch.equal(inputs, INPUTS)
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
