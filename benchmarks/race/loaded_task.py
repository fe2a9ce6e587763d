"""A task whose data is in memory: the batches that every method gets, and how well a network does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.contenders.contender import Loss
from zo_triton.data import Dataset

CPU = torch.device("cpu")

LOSS_EXAMPLES = 5000
"""Of the training set, its first: so many tell how training goes, and 60 000 take longer than the steps between."""


class Examples(NamedTuple):
    """A task's tensors, where they are trained on.

    Attributes:
        train_x: [n, features] float32.
        train_y: What the loss compares outputs with, n of them.
        test_x: [m, features] float32.
        test_y: [m] int64, classes.
    """

    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor


@dataclass(frozen=True)
class LoadedTask:
    """A task with its data in memory.

    Attributes:
        name: Of the data that is there.
        data: Standardised.
        make_model: From a seed to the network with its first weights, on the CPU.
        network: How reports call it.
        note: What a reader must know about the data; empty if it is what the task says.
        loss: What is minimised.
        target_of: From class labels [N] int64 to what the loss compares the output with.
        device: Where the data lies and the network is trained.
        prepared: What was done to the inputs, as reports tell it; empty for nothing.
    """

    name: str
    data: Dataset
    make_model: Callable[[int], nn.Module]
    network: str
    note: str = ""
    loss: Loss = F.cross_entropy
    target_of: Callable[[Tensor], Tensor] = lambda labels: labels
    device: torch.device = CPU
    prepared: str = "Inputs are standardised with the training examples' mean and standard deviation. "

    @cached_property
    def examples(self) -> Examples:
        """The data on the device."""
        data = self.data
        arrays = data.train_x, data.train_y, data.test_x, data.test_y
        train_x, labels, test_x, test_y = (torch.from_numpy(array).to(self.device) for array in arrays)
        return Examples(train_x, self.target_of(labels), test_x, test_y)

    def batches(self, size: int, seed: int, skip: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Shuffled batches of inputs and targets without end; the same seed gives the same ones to every method.

        The first ``skip`` of them are passed over without being formed.
        """
        generator = np.random.default_rng(seed)
        x, y, *_ = self.examples
        while True:
            order = torch.from_numpy(generator.permutation(len(x))).to(self.device)
            for rows in order.split(size):
                if len(rows) == size and skip > 0:
                    skip -= 1
                elif len(rows) == size:
                    yield x[rows], y[rows]

    @torch.no_grad()
    def evaluate(self, model: nn.Module) -> tuple[float, float]:
        """(mean loss of at most :data:`LOSS_EXAMPLES` training examples, test accuracy).

        A single output tells two classes apart by its sign.
        """
        train_x, train_y, test_x, test_y = self.examples
        found = self.loss(model(train_x[:LOSS_EXAMPLES]), train_y[:LOSS_EXAMPLES])
        output = model(test_x)
        classes = (output[:, 0] > 0).long() if output.shape[1] == 1 else output.argmax(1)
        return found.item(), (classes == test_y).float().mean().item()
