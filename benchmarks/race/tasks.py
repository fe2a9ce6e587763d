"""What is trained: small networks on real images, or on digits where those are not there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod, sqrt

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.contenders.contender import Loss, make_mlp
from benchmarks.race.gpt import TinyGPT, sentences
from zo_triton.data import Dataset, available, class_pair_or_digits, digits, load, root, stratified_split

WIDTHS = (4, 8)
"""Channels of the convolutional network: few weights, because zeroth-order steps grow with their number."""

POOLED = 8
"""Larger feature maps than this are averaged to so many rows and columns."""


@dataclass(frozen=True)
class Task:
    """A data set, a network and the settings that suit them.

    Args:
        name: On the command line.
        data: A name in ``zo_triton.data.NAMES``.
        hidden: Widths of an MLP's hidden layers; None for the convolutional network.
        batch: Examples a step.
        directions: K of the zeroth-order methods.
        steps: How many ``python -m benchmarks train`` takes by default.
        rates: Learning rates by method; those of digits for the others.
    """

    name: str
    data: str
    hidden: tuple[int, ...] | None
    batch: int
    directions: int
    steps: int
    rates: tuple[tuple[str, float], ...] = ()

    def prepare(self) -> LoadedTask:
        """Loads and standardises the data; digits stand in, and the note says so, for a set that is not there.

        Raises:
            ValueError: The data set is there but damaged.
        """
        found = available(self.data)
        data = (load(self.data) if found else digits()).standardized()
        note = (
            "" if found else f"{self.data} is not under {root()}: training on scikit-learn's digits instead."
        )
        classes = int(data.train_y.max()) + 1

        def make_model(seed: int) -> nn.Sequential:
            if self.hidden is None:
                return make_cnn(data.shape, classes, seed)
            return make_mlp((prod(data.shape), *self.hidden, classes), seed)

        return LoadedTask(
            self.data if found else "digits", data, make_model, self._network(data.shape, classes), note
        )

    def _network(self, shape: tuple[int, ...], classes: int) -> str:
        if self.hidden is not None:
            return "ReLU network " + "-".join(str(width) for width in (prod(shape), *self.hidden, classes))
        return f"Convolutional ReLU network of {' and '.join(str(width) for width in WIDTHS)} channels"


@dataclass(frozen=True)
class LoadedTask:
    """A task with its data in memory.

    Attributes:
        name: Of the data that is there.
        data: Standardised.
        make_model: From a seed to the network with its first weights.
        network: How reports call it.
        note: What a reader must know about the data; empty if it is what the task says.
        loss: What is minimised.
        target_of: From class labels [N] int64 to what the loss compares the output with.
    """

    name: str
    data: Dataset
    make_model: Callable[[int], nn.Module]
    network: str
    note: str = ""
    loss: Loss = F.cross_entropy
    target_of: Callable[[Tensor], Tensor] = lambda labels: labels


@dataclass(frozen=True)
class PairTask(Task):
    """Two classes, MNIST 3 v 5 at 8 × 8 pixels, under squared loss; ``hidden`` may be empty: a linear model."""

    def prepare(self) -> LoadedTask:
        """As for any task; digits 3 and 5 stand in for MNIST's."""
        # Digits have 146 of their rarer class.
        pair = class_pair_or_digits(self.data, per_class=1000 if available(self.data) else 140)
        labels = (pair.y > 0).astype(np.int64)
        kept, held = stratified_split(labels, 0.25, 0)
        data = Dataset(pair.name, pair.x[kept], labels[kept], pair.x[held], labels[held]).standardized()
        sizes = (pair.x.shape[1], *(self.hidden or ()), 1)
        network = "Linear model " if len(sizes) == 2 else "ReLU network "
        return LoadedTask(
            pair.name, data, lambda seed: make_mlp(sizes, seed), network + "-".join(map(str, sizes)), pair.note,
            F.mse_loss, _signs_of,
        )  # fmt: skip


@dataclass(frozen=True)
class TextTask(Task):
    """The next character of generated sentences, by a transformer of one block."""

    def prepare(self) -> LoadedTask:
        """Makes the text; nothing is read."""
        data = sentences()
        characters = int(data.train_y.max()) + 1
        return LoadedTask(
            data.name, data, lambda seed: TinyGPT(characters, data.train_x.shape[1], seed),
            "Transformer of one block, width 16, 2 heads",
        )  # fmt: skip


def _signs_of(labels: Tensor) -> Tensor:
    """Targets [N, 1] float32: -1 for class 0, 1 for class 1."""
    return 2.0 * labels[:, None] - 1.0


_IMAGE_RATES = (("zo-adam", 1e-2), ("zo-sgd", 1e-2), ("adam", 3e-3), ("sgd", 0.1))
_CONVOLUTIONAL_RATES = (("zo-adam", 4e-3), ("zo-sgd", 1e-2), ("adam", 3e-3), ("sgd", 0.1))

TASKS = {
    task.name: task
    for task in (
        Task("digits", "digits", (32,), 64, 128, 500),
        Task("mnist-mlp", "mnist", (32,), 128, 512, 1000, _IMAGE_RATES),
        Task("mnist-cnn", "mnist", None, 64, 128, 2000, _CONVOLUTIONAL_RATES),
        Task("cifar-cnn", "cifar10", None, 64, 128, 1000, _CONVOLUTIONAL_RATES),
        Task("tiny-imagenet-cnn", "tiny_imagenet", None, 64, 128, 500, _CONVOLUTIONAL_RATES),
        PairTask("nzk-linear", "mnist", (), 64, 64, 300),
        PairTask("nzk-network", "mnist", (10, 5), 64, 64, 300),
        TextTask("tiny-gpt", "text", None, 64, 64, 500),
    )
}


def find_task(name: str) -> Task:
    """The task of that name.

    Raises:
        ValueError: There is none.
    """
    if name not in TASKS:
        raise ValueError(f"unknown task {name!r}; choose one of {tuple(TASKS)}.")
    return TASKS[name]


def make_cnn(shape: tuple[int, ...], classes: int, seed: int) -> nn.Sequential:
    """Two strided convolutions, an average over parts of a large image and a linear layer, on flattened images.

    Args:
        shape: (channels, height, width) of an image.
        classes: How many.
        seed: Of the weights, drawn as torch draws them.

    Returns:
        From [N, channels·height·width] to [N, classes]; 4 330 weights for MNIST.
    """
    channels, height, width = shape
    first, second = WIDTHS
    size = -(-height // 4), -(-width // 4)
    pooled = min(POOLED, size[0]), min(POOLED, size[1])
    generator = torch.Generator().manual_seed(seed)

    def drawn(layer: nn.Conv2d | nn.Linear) -> nn.Module:
        bound = 1 / sqrt(layer.weight[0].numel())
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter.uniform_(-bound, bound, generator=generator)
        return layer

    return nn.Sequential(
        nn.Unflatten(1, shape),
        drawn(nn.utils.skip_init(nn.Conv2d, channels, first, 5, stride=2, padding=2)),
        nn.ReLU(),
        drawn(nn.utils.skip_init(nn.Conv2d, first, second, 3, stride=2, padding=1)),
        nn.ReLU(),
        *([] if pooled == size else [nn.AdaptiveAvgPool2d(pooled)]),
        nn.Flatten(),
        drawn(nn.utils.skip_init(nn.Linear, second * prod(pooled), classes)),
    )
