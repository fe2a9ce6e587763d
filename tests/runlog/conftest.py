"""Short runs that write a log, and what they must leave."""

from collections.abc import Callable

import pytest
import torch

import zo_triton as zo


@pytest.fixture
def same() -> Callable[[dict, dict], bool]:
    """Whether two sets of tensors agree in names, dtypes and every bit."""

    def compare(one, other):
        return list(one) == list(other) and all(
            one[name].dtype == other[name].dtype
            and torch.equal(one[name].view(torch.uint8), other[name].view(torch.uint8))
            for name in one
        )

    return compare


class Quadratic:
    """A matrix, a vector and a bfloat16 vector on a quadratic loss."""

    def __init__(self, kind=zo.ZOSGD, **settings):
        generator = torch.Generator().manual_seed(3)
        self.weights = {
            "matrix": torch.randn(5, 7, generator=generator),
            "vector": torch.randn(9, generator=generator),
            "half": torch.randn(3, generator=generator).bfloat16(),
        }
        self.initial = {name: weight.clone() for name, weight in self.weights.items()}
        named = list(self.weights.items())
        groups = [{"params": named[:1], "lr": 0.03}, {"params": named[1:]}]
        self.opt = kind(groups, **{"lr": 0.1, "directions": 4, "seed": 2**63 + 1, **settings})

    def loss(self):
        return sum((weight.float() - 1).square().mean() for weight in self.weights.values())

    def steps(self, count):
        return [self.opt.step(self.loss) for _ in range(count)]


@pytest.fixture
def quadratic() -> type[Quadratic]:
    return Quadratic


class Network:
    """A network of 64 weights under :class:`zo.FusedTrainer`, a fresh batch each step."""

    def __init__(self, make=lambda params: torch.optim.Adam(params, lr=0.02), **settings):
        generator = torch.Generator().manual_seed(3)
        self.model = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.ReLU(), torch.nn.Linear(5, 4))
        with torch.no_grad():
            for param in self.model.parameters():
                param.copy_(torch.randn(param.shape, generator=generator) / 2)
        self.initial = {name: param.detach().clone() for name, param in self.model.named_parameters()}
        self.optimizer = make(self.model.parameters())
        self.trainer = zo.FusedTrainer(self.model, self.optimizer, directions=8, seed=4, **settings)

    @property
    def weights(self):
        return {name: param.detach() for name, param in self.model.named_parameters()}

    def steps(self, count):
        for _ in range(count):
            generator = torch.Generator().manual_seed(self.trainer.steps_done)
            x = torch.randn(8, 6, generator=generator)
            self.trainer.step(x, torch.randint(4, (8,), generator=generator))


@pytest.fixture
def network() -> type[Network]:
    return Network
