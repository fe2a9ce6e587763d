"""Evolution strategies with rank-1 noise in torch: each pair of mirrored members adds two thin products to a layer.

Sources: Salimans, Ho, Chen, Sidor and Sutskever, "Evolution Strategies as a Scalable Alternative to Reinforcement
Learning" (2017), mirrored sampling; "Evolution Strategies at the Hyperscale" (EGGROLL, 2025), low-rank noise.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from benchmarks.contenders.contender import Contender, Method, Setting, falling_rate


class RankOne(Contender):
    """Mirrored rank-1 Gaussian noise on every matrix; ``vmap`` shares a linear layer's product by its weights.

    A linear layer's (W + σ·a·bᵀ)x is Wx + σ·a·(b·x), Wx being one product for all members; any other tensor of two
    or more dimensions gets its noise written out, and a vector full noise.

    Args:
        model: Trained in place.
        setting: All but its ε counts.
        sigma: σ.
        adam: Feed the estimate to Adam; otherwise plain SGD.
    """

    def __init__(self, model: nn.Module, setting: Setting, sigma: float = 1e-3, adam: bool = False) -> None:
        self.model, self.sigma, self.loss, self.directions = model, sigma, setting.loss, setting.directions
        self.evaluations_per_step = 2 * setting.directions
        self.weights = dict(model.named_parameters())
        kind = torch.optim.Adam if adam else torch.optim.SGD
        self.optimizer = kind(self.weights.values(), lr=setting.lr, fused=True)
        self._decay = falling_rate(self.optimizer, setting.decay_steps)
        self._noise = torch.Generator(next(model.parameters()).device).manual_seed(setting.seed)
        self._linear = {
            f"{path}.weight" if path else "weight": layer
            for path, layer in model.named_modules()
            if isinstance(layer, nn.Linear)
        }

    @torch.no_grad()
    def step(self, x: Tensor, y: Tensor) -> float:
        """One update; returns the mean of the 2K losses."""
        noise = {name: self._draw(weight) for name, weight in self.weights.items()}

        def loss(member: dict[str, tuple[Tensor, ...]], side: Tensor) -> Tensor:
            return self.loss(self._forward(member, side * self.sigma, x), y)

        mirrored = {name: tuple(torch.cat([part, part]) for part in parts) for name, parts in noise.items()}
        sides = torch.tensor([1.0, -1.0], device=x.device).repeat_interleave(self.directions)
        losses = vmap(loss)(mirrored, sides)
        plus, minus = losses.chunk(2)
        coefficients = (plus - minus) / (2 * self.sigma * self.directions)
        for name, weight in self.weights.items():
            first, *second = noise[name]
            scaled = coefficients.view(-1, *[1] * (first.dim() - 1)) * first
            weight.grad = (scaled.T @ second[0]).view_as(weight) if second else scaled.sum(0)
        self.optimizer.step()
        self._decay()
        return losses.mean().item()

    def _draw(self, weight: Tensor) -> tuple[Tensor, ...]:
        """A matrix's factors [K, rows] and [K, cols], or a vector's full noise."""
        sizes = weight.shape if weight.dim() < 2 else (weight.shape[0], weight[0].numel())
        return tuple(
            torch.randn(self.directions, size, generator=self._noise, device=weight.device) for size in sizes
        )

    def _forward(self, member: dict[str, tuple[Tensor, ...]], step: Tensor, x: Tensor) -> Tensor:
        """One member's output; the linear layers' thin products come in by hooks."""
        hooks = []
        moved = {}
        for name, weight in self.weights.items():
            if name in self._linear:
                rows, cols = member[name]
                add = partial(_add_thin_product, step, rows, cols)
                hooks.append(self._linear[name].register_forward_hook(add))
            elif weight.dim() < 2:
                moved[name] = weight + step * member[name][0]
            else:
                moved[name] = weight + step * torch.outer(*member[name]).view_as(weight)
        try:
            return functional_call(self.model, moved, (x,))
        finally:
            for hook in hooks:
                hook.remove()


def _add_thin_product(
    step: Tensor, rows: Tensor, cols: Tensor, layer: nn.Module, inputs: tuple[Tensor], output: Tensor
) -> Tensor:
    return output + (step * (inputs[0] @ cols)).unsqueeze(-1) * rows


METHODS = (
    Method("rank-one", "rank-1 ES, vmapped", "zeroth", RankOne),
    Method("rank-one-adam", "rank-1 ES + Adam", "zeroth", lambda m, s: RankOne(m, s, adam=True)),
)
