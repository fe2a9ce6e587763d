"""Ordinary training by backpropagation: what every forward-only method has to be measured by.

Adam: Kingma and Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015, in torch's fused implementation.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.contenders.contender import (
    Contender,
    Method,
    Setting,
    by_torch_compile,
    falling_rate,
    set_rate,
    trained,
)


class Backprop(Contender):
    """Gradients by autograd, then Adam or SGD.

    Args:
        model: Trained in place.
        setting: Its learning rate, decay and loss count.
        adam: Adam, otherwise plain SGD.
        compiled: Forward and backward pass by ``torch.compile``.
    """

    evaluations_per_step = 3

    def __init__(self, model: nn.Module, setting: Setting, adam: bool = True, compiled: bool = False) -> None:
        kind = torch.optim.Adam if adam else torch.optim.SGD
        self.optimizer = kind(trained(model), lr=setting.lr, fused=True)
        self._decay = falling_rate(self.optimizer, setting.decay_steps)

        def loss(x: Tensor, y: Tensor) -> Tensor:
            return setting.loss(model(x), y)

        self.loss = by_torch_compile(loss) if compiled else loss

    def prepare(self, x: Tensor, y: Tensor) -> None:
        """One forward and backward pass, where ``torch.compile`` compiles both."""
        self.loss(x, y).backward()
        self.optimizer.zero_grad(set_to_none=True)

    def step(self, x: Tensor, y: Tensor) -> Tensor:
        """One update; returns the loss before it, which nobody has waited for."""
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.loss(x, y)
        loss.backward()
        self.optimizer.step()
        self._decay()
        return loss.detach()

    def take_rate(self, lr: float) -> None:
        """Sets the optimizer's."""
        set_rate(self.optimizer, lr)

    def state(self) -> dict[str, Any]:
        """The optimizer's."""
        return self.optimizer.state_dict()

    def load_state(self, state: dict[str, Any]) -> None:
        """Takes it over."""
        self.optimizer.load_state_dict(state)


METHODS = (
    Method("adam", "backprop + Adam", "first", Backprop),
    Method("sgd", "backprop + SGD", "first", lambda m, s: Backprop(m, s, adam=False)),
    Method(
        "sgd-compiled",
        "backprop + SGD, compiled",
        "first",
        lambda m, s: Backprop(m, s, adam=False, compiled=True),
    ),
)
