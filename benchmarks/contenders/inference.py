"""Plain forward passes, the yardstick of "cost of inference"."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from benchmarks.contenders.contender import Contender, Method, Setting


class Inference(Contender):
    """2K forward passes of the batch; trains nothing.

    Args:
        model: Evaluated.
        setting: Its K and its loss count.
    """

    def __init__(self, model: nn.Module, setting: Setting) -> None:
        self.model, self.loss, self.evaluations_per_step = model, setting.loss, 2 * setting.directions

    @torch.inference_mode()
    def step(self, x: Tensor, y: Tensor) -> float:
        """Returns the loss of the last pass."""
        for _ in range(self.evaluations_per_step):
            output = self.model(x)
        return self.loss(output, y).item()


METHODS = (Method("inference", "2K inference passes", "inference", Inference),)
