"""Small networks of every kind, and what they learn: digits, as they are or enlarged, and generated sentences."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.named import Named
from benchmarks.race.gpt import CONTEXT, TinyGPT, sentences
from benchmarks.race.networks import make_cnn, make_lenet, make_mlp
from zo_triton.data import digits

SIDE = 28
"""Rows and columns of an enlarged digit."""


@dataclass(frozen=True)
class Network:
    """A network and its data.

    Args:
        name: In the table.
        make: From a seed to the network.
        data: From nothing to inputs [n, …] float32 and targets.
        loss: cross_entropy or mse.
        ways: Where it is perturbed.
        steps: Of its runs.
    """

    name: str
    make: Callable[[int], nn.Module]
    data: Callable[[], tuple[Tensor, Tensor]]
    loss: str = "cross_entropy"
    ways: tuple[str, ...] = ("weights",)
    steps: int = 400


class RowReader(nn.Module):
    """An LSTM that reads a digit row by row."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.reader, self.out = nn.LSTM(8, width, batch_first=True), nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """[N, 64] to [N, 10]."""
        return self.out(self.reader(x.view(-1, 8, 8))[0][:, -1])


@cache
def _digits() -> tuple[Tensor, Tensor]:
    found = digits().standardized()
    return torch.from_numpy(found.train_x).flatten(1), torch.from_numpy(found.train_y)


@cache
def _enlarged() -> tuple[Tensor, Tensor]:
    x, y = _digits()
    return F.interpolate(x.view(-1, 1, 8, 8), size=(SIDE, SIDE), mode="bilinear").flatten(1), y


def _as_number() -> tuple[Tensor, Tensor]:
    """The digit as a number, centred and scaled."""
    x, y = _digits()
    numbers = y.float()[:, None]
    return x, (numbers - numbers.mean()) / numbers.std()


@cache
def _text() -> tuple[Tensor, Tensor]:
    found = sentences()
    return torch.from_numpy(found.train_x), torch.from_numpy(found.train_y)


def _characters() -> int:
    return int(_text()[1].max()) + 1


def _seeded(make: Callable[[], nn.Module]) -> Callable[[int], nn.Module]:
    """Drawn as torch draws; torch's own generator is left as it was."""

    def drawn(seed: int) -> nn.Module:
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(seed)
            return make()

    return drawn


def _normalised(norm: type[nn.Module], activation: type[nn.Module]) -> nn.Module:
    return nn.Sequential(nn.Linear(64, 32), norm(32), activation(), nn.Linear(32, 10))


def _two_convolutions() -> nn.Module:
    return nn.Sequential(
        nn.Unflatten(1, (1, SIDE, SIDE)),
        nn.Conv2d(1, 8, 5), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(400, 10),
    )  # fmt: skip


BOTH = ("weights", "activations")

_NETWORKS = (
    Network("linear regression", lambda seed: make_mlp((64, 1), seed), _as_number, "mse"),
    Network("softmax regression", lambda seed: make_mlp((64, 10), seed), _digits, ways=BOTH),
    Network("MLP 64-32-10, ReLU", lambda seed: make_mlp((64, 32, 10), seed), _digits, ways=BOTH),
    Network("MLP of four layers, tanh", lambda seed: make_mlp((64, 32, 32, 32, 10), seed, nn.Tanh), _digits),
    Network("MLP, LayerNorm, GELU", _seeded(lambda: _normalised(nn.LayerNorm, nn.GELU)), _digits),
    Network("MLP, BatchNorm, ReLU", _seeded(lambda: _normalised(nn.BatchNorm1d, nn.ReLU)), _digits),
    Network("CNN, max pooling", _seeded(_two_convolutions), _enlarged),
    Network("CNN of the races", lambda seed: make_cnn((1, SIDE, SIDE), 10, seed), _enlarged, ways=BOTH),
    # With 64 directions the largest stable rates of two networks are so small that 400 steps do not halve the loss.
    Network("LeNet-5", make_lenet, _enlarged, steps=2000),
    Network("LSTM", _seeded(RowReader), _digits),
    Network("tiny GPT", lambda seed: TinyGPT(_characters(), CONTEXT, seed), _text, steps=2000),
)
NETWORKS = Named("network", {network.name: network for network in _NETWORKS})
"""By name."""
