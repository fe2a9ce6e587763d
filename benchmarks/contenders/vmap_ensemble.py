"""All directions at once the torch way: ``vmap`` over K perturbed copies of the weights.

Source: torch.func's tutorial on model ensembling (``functional_call`` under ``vmap``), with the perturbed
copies of an evolution-strategies step as the ensemble.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from benchmarks.contenders.contender import Contender, Method, Setting, by_torch_compile, falling_rate


class VmapEnsemble(Contender):
    """Gaussian directions, materialised; every copy runs in one batched forward pass.

    Args:
        model: Trained in place.
        setting: All but its ε counts.
        eps: Smoothing radius.
        sides: 1 for L(θ+εz) - L(θ), 2 for central differences.
        adam: Feed the estimate to Adam; otherwise plain SGD.
        compiled: The evaluations by ``torch.compile``.
        chunk: Copies evaluated at once, which bounds the memory of their activations; None takes all.
    """

    def __init__(
        self,
        model: nn.Module,
        setting: Setting,
        eps: float = 1e-3,
        sides: int = 1,
        adam: bool = False,
        compiled: bool = False,
        chunk: int | None = None,
    ) -> None:
        self.chunk = chunk
        self.model, self.eps, self.sides, self.loss = model, eps, sides, setting.loss
        self.directions = directions = setting.directions
        self.weights = dict(model.named_parameters())
        self.evaluations_per_step = directions + 1 if sides == 1 else 2 * directions
        kind = torch.optim.Adam if adam else torch.optim.SGD
        self.optimizer = kind(self.weights.values(), lr=setting.lr, fused=True)
        self._decay = falling_rate(self.optimizer, setting.decay_steps)
        self._compiled = by_torch_compile(self.slopes) if compiled else None
        self._noise = torch.Generator(next(model.parameters()).device).manual_seed(setting.seed)

    @torch.no_grad()
    def step(self, x: Tensor, y: Tensor) -> float:
        """One update; returns the base loss, or with two sides the mean of all losses."""
        noise = {
            name: torch.randn(self.directions, *weight.shape, generator=self._noise, device=weight.device)
            for name, weight in self.weights.items()
        }
        loss, slopes = (self._compiled or self.slopes)(noise, x, y)
        for name, weight in self.weights.items():
            weight.grad = torch.tensordot(slopes / self.directions, noise[name], dims=1)
        self.optimizer.step()
        self._decay()
        return loss

    @torch.no_grad()
    def slopes(self, noise: dict[str, Tensor], x: Tensor, y: Tensor) -> tuple[float, Tensor]:
        """A loss, and the projected gradients [K] along given directions [K, *shape]."""

        def loss(weights: dict[str, Tensor]) -> Tensor:
            return self.loss(functional_call(self.model, weights, (x,)), y)

        def moved(step: float) -> dict[str, Tensor]:
            return {name: weight + step * noise[name] for name, weight in self.weights.items()}

        every = vmap(loss, chunk_size=self.chunk)
        plus = every(moved(self.eps))
        if self.sides == 1:
            base = loss(dict(self.weights))
            return base.item(), (plus - base) / self.eps
        minus = every(moved(-self.eps))
        return (plus + minus).mean().item() / 2, (plus - minus) / (2 * self.eps)


CHUNK = 4
"""Copies of a transformer at once: more of them are no faster."""

METHODS = (
    Method("vmap", "vmap, one-sided", "zeroth", VmapEnsemble),
    Method(
        "vmap-chunked", f"vmap, one-sided, {CHUNK} at once", "zeroth",
        lambda m, s: VmapEnsemble(m, s, chunk=CHUNK),
    ),
    Method("vmap-central", "vmap, central", "zeroth", lambda m, s: VmapEnsemble(m, s, sides=2)),
    Method(
        "vmap-compiled", "vmap, one-sided, compiled", "zeroth", lambda m, s: VmapEnsemble(m, s, compiled=True)
    ),
    Method("vmap-adam", "vmap ensemble + Adam", "zeroth", lambda m, s: VmapEnsemble(m, s, adam=True)),
)  # fmt: skip
