"""Two small losses whose gradient is known, as closures that remember at which weights they were evaluated."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes

from zo_triton._interrupts import held_back

WIDTH = 24
"""Of the network, whose two layers have the same shapes."""


class Problem:
    """A model, a batch and a loss: what a closure is made of.

    Args:
        model: Its parameters are trained.
        x: Inputs of the batch.
        y: Targets.
        loss: From (output, target) to a scalar.
    """

    def __init__(
        self, model: nn.Module, x: Tensor, y: Tensor, loss: Callable[[Tensor, Tensor], Tensor]
    ) -> None:
        self.model, self.x, self.y, self.loss = model, x, y, loss
        self.params = list(model.parameters())

    def value(self) -> Tensor:
        """The loss at what the parameters hold, a scalar."""
        return self.loss(self.model(self.x), self.y)

    def gradients(self) -> list[Tensor]:
        """The true gradient here, by backpropagation: one tensor a parameter, in its shape and dtype."""
        with torch.enable_grad():
            return list(torch.autograd.grad(self.value(), self.params))


class Closure:
    """What the optimizer is given: it evaluates the loss, and keeps the weights of each evaluation.

    Attributes:
        problem: With ``model``, ``x``, ``y`` and ``loss``, for optimizers that take these instead of a closure.
        seen: The weights at each call, float64 [d], all parameters one after the other.
    """

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.seen: list[Tensor] = []

    def __call__(self) -> Tensor:
        """The loss, a scalar tensor."""
        # An optimizer may trace the closure by modes of torch; the look at the weights is none of its business.
        # Torch takes modes away and puts them back one by one, and an interrupt in between would lose some.
        with held_back(), torch._C.DisableTorchFunction(), _disable_current_modes():
            self.seen.append(flat(self.problem.params))
        return self.problem.value()


def flat(tensors: Sequence[Tensor]) -> Tensor:
    """A copy of all of them, one after the other, float64 [d] on the CPU."""
    return torch.cat([tensor.detach().to("cpu", torch.float64).flatten() for tensor in tensors])


def make_network(device: str = "cpu") -> Problem:
    """A ReLU network of 1 200 weights with a squared error: tensors [24, 24], [24], [24, 24], [24]."""
    generator = torch.Generator("cpu").manual_seed(2026)
    first, second = (nn.utils.skip_init(nn.Linear, WIDTH, WIDTH, dtype=torch.float32) for _ in range(2))
    model = nn.Sequential(first, nn.ReLU(), second)
    with torch.no_grad():
        for param in model.parameters():
            param.copy_(_normal(generator, *param.shape) * 0.3)
    x, y = (_normal(generator, 8, WIDTH) for _ in range(2))
    return Problem(model.to(device), x.to(device), y.to(device), F.mse_loss)


class _Linear(nn.Module):
    """⟨slope, weight⟩ in float32, whatever the weight's dtype."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, slope: Tensor) -> Tensor:
        return (self.weight.float() * slope).sum()


def make_linear(rows: int, cols: int, dtype: torch.dtype = torch.float32) -> Problem:
    """A linear loss of one weight [rows, cols], whose elements lie in ±[1, 2): equally far apart in any dtype."""
    generator = torch.Generator("cpu").manual_seed(2027)
    size, sign = (
        torch.rand(rows, cols, generator=generator, dtype=torch.float32, device="cpu") for _ in range(2)
    )
    weight = ((1.0 + size) * (sign - 0.5).sign()).to(dtype)
    slope = _normal(generator, rows, cols) / (rows * cols) ** 0.5
    # Nothing is left at the start, so that float32 resolves the differences.
    start = (weight.float() * slope).sum()
    return Problem(_Linear(weight), slope, start, lambda output, target: output - target)


def _normal(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float32, device="cpu")
