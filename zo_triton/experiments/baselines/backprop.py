"""Ordinary training by backpropagation, eager torch: what every forward-only method has to be measured by.

Adam: Kingma and Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015, in torch's fused implementation.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zo_triton.experiments.contender import falling_rate


class Backprop:
    """Gradients by autograd, then Adam or SGD.

    Args:
        model: Trained in place.
        lr: Learning rate.
        adam: Adam, otherwise plain SGD.
        decay_steps: Over which the learning rate falls linearly to nothing; None keeps it.
    """

    evaluations_per_step = 3

    def __init__(
        self, model: nn.Module, lr: float, adam: bool = True, decay_steps: int | None = None
    ) -> None:
        self.model = model
        kind = torch.optim.Adam if adam else torch.optim.SGD
        self.optimizer = kind(model.parameters(), lr=lr, fused=True)
        self._decay = falling_rate(self.optimizer, decay_steps)

    def step(self, x: Tensor, y: Tensor) -> float:
        """One update; returns the loss before it."""
        self.optimizer.zero_grad(set_to_none=True)
        loss = F.cross_entropy(self.model(x), y)
        loss.backward()
        self.optimizer.step()
        self._decay()
        return loss.item()
