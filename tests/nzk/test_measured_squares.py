"""The squared sums against the dense theory, and the choice made without them against the best by them."""

from itertools import product

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.race.gpt import TinyGPT, sentences
from benchmarks.race.networks import make_lenet, make_mlp
from zo_triton.data import digits
from zo_triton.nzk import gradient_error, layer_squares, linearize_nodes
from zo_triton.optim.where_to_perturb import Layer, choose, relative_error

SAMPLES = 64


@pytest.fixture(autouse=True)
def small_tensors(one_thread):
    """The tensors here are small enough for one thread."""


class Mixed(nn.Module):
    """Grouped convolution without bias, a layer applied twice, a frozen weight, and a parameter of no layer."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(2, 3, 3))
        self.wide = nn.Conv2d(2, 4, 2, padding=1, groups=2, bias=False)
        self.twice, self.out = nn.Linear(4, 4), nn.Linear(4, 3)
        self.out.weight.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.wide(x + self.shift), inplace=True).mean((2, 3))
        return self.out(torch.tanh(self.twice(torch.tanh(self.twice(h)))))


def test_all_assignments_of_a_small_network_by_the_dense_theory():
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        net, x, y = Mixed(), torch.randn(5, 2, 3, 3), torch.tensor([0, 1, 2, 1, 1])
    found, known = layer_squares(net, x, lambda f: F.cross_entropy(f, y, reduction="none"))
    assert list(found) == ["wide", "twice", "out", "others"]
    assert {name: (layer.nodes, layer.weights) for name, layer in known.items()} == {
        "wide": (64, 16), "twice": (8, 20), "out": (3, 3), "others": (0, 18),
    }  # fmt: skip
    assert known["out"].input_square == 1.0  # of its bias alone
    names = list(found)[:3]
    for ways in product((True, False), repeat=3):
        chosen = [name for name, way in zip(names, ways, strict=True) if way]
        if not chosen:
            continue
        model = linearize_nodes(net, x, chosen)
        logits = torch.tensor(model.outputs).reshape(5, 3).requires_grad_()
        F.cross_entropy(logits, y, reduction="sum").backward()
        slope = logits.grad.flatten()
        # Independent signs, and orthogonal ones of so many rows that no two elements share a column.
        for num, order in ((3, None), (100, 128)):
            wanted = gradient_error(model, slope, num, order) / (model.gradient(slope) ** 2).sum()
            error = relative_error(list(found.values()), [*ways, False], num, order)
            assert error == pytest.approx(wanted, rel=1e-9)


def images(side: int) -> tuple[Tensor, Tensor]:
    data = digits()
    x = F.interpolate(torch.tensor(data.train_x).reshape(-1, 1, 8, 8), (side, side), mode="bilinear")
    return ((x - x.mean()) / x.std()).flatten(1), torch.tensor(data.train_y)


def text() -> tuple[Tensor, Tensor]:
    data = sentences(100)
    return torch.tensor(data.train_x), torch.tensor(data.train_y)


def lenet() -> nn.Module:
    return make_lenet(0)


def gpt() -> nn.Module:
    return TinyGPT(int(text()[1].max()) + 1, 12, 0)


CASES = {
    "64-32-10": (lambda: make_mlp((64, 32, 10), 0), lambda: images(8)),
    "784-32-10": (lambda: make_mlp((784, 32, 10), 0), lambda: images(28)),
    "784-256-256-10": (lambda: make_mlp((784, 256, 256, 10), 0), lambda: images(28)),
    "LeNet-5": (lenet, lambda: images(28)),
    "GPT": (gpt, text),
}


@pytest.mark.parametrize("steps", [0, 40], ids=["start", "trained"])
@pytest.mark.parametrize("name", CASES)
def test_the_choice_is_the_best_of_all_assignments(name, steps):
    """Before training and after 40 steps of Adam, from what the forward pass knows alone."""
    make, load = CASES[name]
    model, (x, y) = make(), load()
    generator = torch.Generator().manual_seed(1)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(steps):
        batch = torch.randint(len(x), (SAMPLES,), generator=generator)
        optimizer.zero_grad()
        F.cross_entropy(model(x[batch]), y[batch]).backward()
        optimizer.step()
    batch = torch.randint(len(x), (SAMPLES,), generator=generator)
    found, known = layer_squares(model, x[batch], lambda f: F.cross_entropy(f, y[batch], reduction="none"))
    squares, layers = list(found.values()), list(known.values())
    for num, order in ((16, None), (64, 64)):
        errors = {
            ways: relative_error(squares, ways, num, order)
            for ways in product(*((True, False) if layer.nodes else (False,) for layer in layers))
        }
        choice = choose(layers, SAMPLES, num, order)
        chosen = errors[tuple(not there for there in choice.at_weights)]
        assert chosen <= 1.05 * min(errors.values())


def test_what_is_refused():
    x = torch.ones(2, 3)
    with pytest.raises(ValueError, match=r"losses must return \[2\], one a sample, got shape \(\)"):
        layer_squares(nn.Linear(3, 1), x, lambda f: f.mean())
    first, second = nn.Linear(3, 3), nn.Linear(3, 3)
    second.weight = first.weight
    with pytest.raises(ValueError, match="two modules share a parameter"):
        layer_squares(nn.Sequential(first, second), x, lambda f: f.sum(1))
    found, _ = layer_squares(nn.Linear(3, 1), x, lambda f: f.sum(1))
    with pytest.raises(ValueError, match="there are 1 layers"):
        relative_error(list(found.values()), [True, False], 1)


def test_what_the_forward_pass_knows_is_all_that_choose_takes():
    x = torch.tensor([[3.0, 4.0], [0.0, 1.0]])
    found, known = layer_squares(nn.Linear(2, 5), x, lambda f: f.square().sum(1))
    assert known == {"": Layer(5, 15, 1 + (25 + 1) / 2)}
    np.testing.assert_allclose(found[""].inputs, [5 * 26, 5 * 2])
