"""What is trained: small networks on real images, or on digits where those are not there."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from math import prod

import numpy as np
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.named import Named
from benchmarks.race import decoders, language
from benchmarks.race.gpt import TinyGPT, sentences
from benchmarks.race.loaded_task import LoadedTask
from benchmarks.race.networks import WIDTHS, count_parameters, make_cnn, make_mlp
from benchmarks.race.pretrained import Pretraining, Say, pretrained
from zo_triton.data import Dataset, available, class_pair_or_digits, digits, load, stratified_split
from zo_triton.data.files import absent


def quietly(message: str) -> None:
    """Tells nobody."""


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
        halve_after: Steps after which it halves the learning rate by default; after twice as many it is a third.
        rates: Learning rates by method; those of digits for the others.
        activation: Of an MLP.
    """

    name: str
    data: str
    hidden: tuple[int, ...] | None
    batch: int
    directions: int
    steps: int
    halve_after: int
    rates: tuple[tuple[str, float], ...] = ()
    activation: type[nn.Module] = nn.ReLU

    def prepare(self, say: Say = quietly) -> LoadedTask:
        """Loads and standardises the data; digits stand in, and the note says so, for a set that is not there.

        Args:
            say: Told of what takes long.

        Raises:
            ValueError: The data set is there but damaged.
        """
        found = available(self.data)
        data = (load(self.data) if found else digits()).standardized()
        note = "" if found else f"{absent(self.data)}: training on scikit-learn's digits instead."
        make_model, network = self._network(data.shape, int(data.train_y.max()) + 1)
        return LoadedTask(self.data if found else "digits", data, make_model, network, note)

    def _network(self, shape: tuple[int, ...], classes: int) -> tuple[Callable[[int], nn.Sequential], str]:
        """What makes it from a seed, and how reports call it."""
        if self.hidden is None:
            channels = " and ".join(str(width) for width in WIDTHS)
            return (
                lambda seed: make_cnn(shape, classes, seed),
                f"Convolutional ReLU network of {channels} channels",
            )
        sizes = prod(shape), *self.hidden, classes
        return (
            lambda seed: make_mlp(sizes, seed, self.activation),
            f"{self.activation.__name__} network {'-'.join(map(str, sizes))}",
        )


@dataclass(frozen=True)
class PairTask(Task):
    """Two classes, MNIST 3 v 5 at 8 × 8 pixels, under squared loss; ``hidden`` may be empty: a linear model."""

    def prepare(self, say: Say = quietly) -> LoadedTask:
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

    def prepare(self, say: Say = quietly) -> LoadedTask:
        """Makes the text; nothing is read."""
        data = sentences()
        characters = int(data.train_y.max()) + 1
        return LoadedTask(
            data.name, data, lambda seed: TinyGPT(characters, data.train_x.shape[1], seed),
            "Transformer of one block, width 16, 2 heads", prepared="",
        )  # fmt: skip


@dataclass(frozen=True)
class FineTuningTask(Task):
    """Another answer is wanted of a small GPT that was pre-trained on texts of the same language.

    Args:
        pretraining: How its weights came to be.
    """

    pretraining: Pretraining = field(default_factory=Pretraining)

    def prepare(self, say: Say = quietly) -> LoadedTask:
        """Loads the pre-trained weights, or makes them, which takes most of two minutes.

        Raises:
            ValueError: Its packages are missing.
        """
        if decoders.missing():
            raise ValueError(f"{self.name} needs transformers: pip install 'zo_triton[transformers]'.")
        model, data = pretrained(self.pretraining, say), language.question(256, 128)
        millions = count_parameters(model) / 1e6
        network = f"GPT-2 of {millions:.2g} million weights, pre-trained on the same language"
        return LoadedTask(data.name, data, lambda seed: deepcopy(model), network, prepared="")


def _signs_of(labels: Tensor) -> Tensor:
    """Targets [N, 1] float32: -1 for class 0, 1 for class 1."""
    return 2.0 * labels[:, None] - 1.0


_IMAGE_RATES = (("zo-adam", 1e-2), ("zo-sgd", 1e-2), ("adam", 3e-3), ("sgd", 0.1))
_CONVOLUTIONAL_RATES = (("zo-adam", 4e-3), ("zo-sgd", 1e-2), ("adam", 3e-3), ("sgd", 0.1))
_FINE_TUNING_RATES = (("zo-adam", 1e-3), ("zo-sgd", 1e-4), ("adam", 1e-3), ("sgd", 3e-2))

_TASKS = (
    Task("digits", "digits", (32,), 64, 128, 500, 200),
    Task("mnist-mlp", "mnist", (32,), 128, 512, 1000, 100, _IMAGE_RATES),
    Task("mnist-cnn", "mnist", None, 64, 128, 2000, 1000, _CONVOLUTIONAL_RATES),
    Task("cifar-cnn", "cifar10", None, 64, 128, 1000, 250, _CONVOLUTIONAL_RATES),
    Task("tiny-imagenet-cnn", "tiny_imagenet", None, 64, 128, 500, 500, _CONVOLUTIONAL_RATES),
    Task("mnist-gelu", "mnist", (128, 128), 128, 4096, 1000, 300, _IMAGE_RATES, nn.GELU),
    PairTask("nzk-linear", "mnist", (), 64, 64, 300, 50),
    PairTask("nzk-network", "mnist", (10, 5), 64, 64, 300, 100),
    TextTask("tiny-gpt", "text", None, 64, 64, 500, 200),
    FineTuningTask("fine-tuning", "texts", None, 16, 8, 200, 200, _FINE_TUNING_RATES),
    FineTuningTask(
        "fine-tuning-tiny",
        "texts",
        None,
        16,
        4,
        10,
        10,
        _FINE_TUNING_RATES,
        pretraining=Pretraining("fine-tuning-tiny", 16, 1, 2, 20),
    ),
)
TASKS = Named("task", {task.name: task for task in _TASKS})
"""By name."""
