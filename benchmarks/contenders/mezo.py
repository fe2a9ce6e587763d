"""MeZO as a plain torch loop: perturb the weights in place, evaluate, restore, replay the noise to update.

Source: Malladi, Gao, Nichani, Damian, Lee, Chen and Arora, "Fine-Tuning Language Models with Just Forward
Passes", NeurIPS 2023, Algorithms 1 (several directions a step: Algorithm 2; with Adam: its Appendix B).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
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


class MeZO(Contender):
    """Central differences along K Gaussian directions, one direction after the other.

    Memory stays that of inference: a direction is its generator's seed, and its noise is drawn again each
    time it is needed.

    Args:
        model: What is not frozen of it is trained in place.
        setting: All but its ε counts, its decay only with Adam.
        eps: Smoothing radius; 1e-3 is the paper's.
        adam: Feed the averaged estimate to Adam instead of descending along it.
        compiled: Forward passes by ``torch.compile``.
    """

    def __init__(
        self,
        model: nn.Module,
        setting: Setting,
        eps: float = 1e-3,
        adam: bool = False,
        compiled: bool = False,
    ) -> None:
        self.forward = by_torch_compile(model) if compiled else model
        self.loss, self.lr, self.eps = setting.loss, setting.lr, eps
        self.directions = directions = setting.directions
        self.parameters = trained(model)
        self.evaluations_per_step = 2 * directions
        self.adam = torch.optim.Adam(self.parameters, lr=setting.lr, fused=True) if adam else None
        self._decay = falling_rate(self.adam, setting.decay_steps) if self.adam else None
        self._seeds = torch.Generator().manual_seed(setting.seed)
        self._noise = torch.Generator(self.parameters[0].device)

    @torch.no_grad()
    def step(self, x: Tensor, y: Tensor) -> float:
        """One update; returns the mean of the 2K perturbed losses."""
        seeds = torch.randint(2**62, (self.directions,), generator=self._seeds).tolist()
        slopes, total = [], 0.0
        for seed in seeds:
            self._perturb(seed, self.eps)
            plus = self.loss(self.forward(x), y).item()
            self._perturb(seed, -2 * self.eps)
            minus = self.loss(self.forward(x), y).item()
            self._perturb(seed, self.eps)
            slopes.append((plus - minus) / (2 * self.eps))
            total += plus + minus
        if self.adam is None or self._decay is None:
            for seed, slope in zip(seeds, slopes, strict=True):
                self._perturb(seed, -self.lr * slope / self.directions)
        else:
            self._fill_gradients(seeds, slopes)
            self.adam.step()
            self._decay()
        return total / (2 * self.directions)

    def take_rate(self, lr: float) -> None:
        """Sets its own, and Adam's."""
        self.lr = lr
        if self.adam is not None:
            set_rate(self.adam, lr)

    def state(self) -> dict[str, Any]:
        """Where its seeds go on, and Adam's state."""
        return {
            "seeds": self._seeds.get_state(),
            "adam": None if self.adam is None else self.adam.state_dict(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Takes it over."""
        self._seeds.set_state(state["seeds"])
        if self.adam is not None:
            self.adam.load_state_dict(state["adam"])

    def _perturb(self, seed: int, scale: float) -> None:
        for parameter, noise in self._replay(seed):
            parameter.add_(noise, alpha=scale)

    def _fill_gradients(self, seeds: list[int], slopes: list[float]) -> None:
        for parameter in self.parameters:
            parameter.grad = torch.zeros_like(parameter)
        for seed, slope in zip(seeds, slopes, strict=True):
            for weight, noise in self._replay(seed):
                assert weight.grad is not None
                weight.grad.add_(noise, alpha=slope / self.directions)

    def _replay(self, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        self._noise.manual_seed(seed)
        for parameter in self.parameters:
            noise = torch.randn(
                parameter.shape, generator=self._noise, dtype=torch.float32, device=parameter.device
            )
            yield parameter, noise


METHODS = (
    Method("mezo", "MeZO loop", "zeroth", MeZO),
    Method("mezo-adam", "MeZO loop + Adam", "zeroth", lambda m, s: MeZO(m, s, adam=True)),
    Method(
        "mezo-1", "MeZO loop, K = 1", "zeroth", lambda m, s: MeZO(m, replace(s, directions=1)), directions=1
    ),
    Method("mezo-compiled", "MeZO loop, compiled passes", "zeroth", lambda m, s: MeZO(m, s, compiled=True)),
)
