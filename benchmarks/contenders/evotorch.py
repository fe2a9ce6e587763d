"""PGPE as EvoTorch offers it: mirrored Gaussian samples, centred ranks, Adam; the population runs under ``vmap``.

Source: Toklu, Atkinson, Micka, Liskowski and Srivastava, "EvoTorch: Scalable Evolutionary Computation in Python"
(2023); Sehnke et al., "Parameter-exploring policy gradients" (2010).
"""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from benchmarks.contenders.contender import Contender, Method, Setting


class EvoTorchPGPE(Contender):
    """One generation of 2K members on the batch a step.

    Args:
        model: Trained in place.
        setting: All but its ε and decay count.
        sigma: Standard deviation of the population, held constant.

    Raises:
        ImportError: EvoTorch is not installed.
    """

    def __init__(self, model: nn.Module, setting: Setting, sigma: float = 1e-2) -> None:
        from evotorch import Problem
        from evotorch.algorithms import PGPE
        from evotorch.decorators import vectorized

        # It tells each population that it makes.
        logging.getLogger("evotorch").setLevel(logging.WARNING)
        self.model, self.loss = model, setting.loss
        self.evaluations_per_step = 2 * setting.directions
        self._shapes = [(name, weight.shape) for name, weight in model.named_parameters()]
        start = parameters_to_vector(model.parameters()).detach()

        @vectorized
        def objective(members: Tensor) -> Tensor:
            return self._losses(members)

        problem = Problem(
            "min", objective, solution_length=start.numel(), dtype=start.dtype, seed=setting.seed
        )
        self._searcher: Any = PGPE(
            problem, popsize=2 * setting.directions, center_learning_rate=setting.lr, stdev_learning_rate=0.0,
            stdev_init=sigma, optimizer="adam", center_init=start,
        )  # fmt: skip

    @torch.no_grad()
    def step(self, x: Tensor, y: Tensor) -> float:
        """One generation; returns the mean of the 2K losses."""
        self._x, self._y = x, y
        self._searcher.step()
        return float(self._searcher.status["mean_eval"])

    @torch.no_grad()
    def write_weights(self) -> None:
        """Puts the distribution's centre into the model."""
        vector_to_parameters(self._searcher.status["center"].clone(), self.model.parameters())

    def _losses(self, members: Tensor) -> Tensor:
        """[members, d] to their losses."""

        def loss(member: Tensor) -> Tensor:
            parts = member.split([shape.numel() for _, shape in self._shapes])
            weights = {
                name: part.view(shape) for (name, shape), part in zip(self._shapes, parts, strict=True)
            }
            return self.loss(functional_call(self.model, weights, (self._x,)), self._y)

        return vmap(loss)(members)


METHODS = (Method("evotorch", "EvoTorch PGPE", "zeroth", EvoTorchPGPE, needs=("evotorch",)),)
