"""Exact directional derivatives the torch way: ``jvp`` of the loss along K directions under ``vmap``.

Source: Baydin et al., "Gradients without Backpropagation" (2022), with torch.func's forward-mode differentiation.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.func import functional_call, jvp, vmap

from benchmarks.contenders.contender import Method, Setting
from benchmarks.contenders.vmap_ensemble import VmapEnsemble


class ForwardGradient(VmapEnsemble):
    """The ensemble's steps with derivatives in place of differences: nothing depends on a smoothing radius.

    All tangents share one forward pass; each costs about two more, so much does forward mode add to a product.

    Args:
        model: Trained in place.
        setting: All but its ε counts.
        adam: Feed the estimate to Adam; otherwise plain SGD.
    """

    def __init__(self, model: nn.Module, setting: Setting, adam: bool = False) -> None:
        super().__init__(model, setting, adam=adam)
        self.evaluations_per_step = 1 + 2 * setting.directions

    @torch.no_grad()
    def slopes(self, noise: dict[str, Tensor], x: Tensor, y: Tensor) -> tuple[float, Tensor]:
        """The loss, and its derivatives [K] along given directions [K, *shape]."""
        weights = {name: weight.detach() for name, weight in self.weights.items()}

        def loss(at: dict[str, Tensor]) -> Tensor:
            return self.loss(functional_call(self.model, at, (x,)), y)

        along = partial(jvp, loss, (weights,))
        found: tuple[Tensor, Tensor] = vmap(lambda tangent: tuple(along((tangent,))))(noise)
        return found[0][0].item(), found[1]


METHODS = (
    Method("forward", "forward gradient, vmapped jvp", "zeroth", ForwardGradient),
    Method(
        "forward-adam", "forward gradient + Adam", "zeroth", lambda m, s: ForwardGradient(m, s, adam=True)
    ),
)
