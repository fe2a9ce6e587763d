"""What tests of noise on layers' outputs share: a step, its error, and a small decoder."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import zo_triton as zo
from zo_triton.difference import Evaluation
from zo_triton.difference.plan import Plan
from zo_triton.optim.node_measure import NodeMeasurement, measure_nodes, start_plan

N, CLASSES = 6, 5
LABELS = torch.tensor([0, 3, 1, 4, 4, 2])


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def made(model: nn.Module) -> nn.Module:
    """The module with weights that depend on nothing but their shapes."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for param in model.parameters():
            param.copy_(torch.randn(param.shape, generator=generator) / max(1, param[0].numel()) ** 0.5)
    return model


def measured(
    closure: Callable[[], Tensor], params: Sequence[Tensor], num: int = 1024, plan: Plan | None = None,
    eps: float = 1e-4, sides: int = 1, perturb: str = "activations", **settings,
) -> NodeMeasurement:  # fmt: skip
    """What one step finds, along ``num`` orthogonal directions."""
    directions = zo.Directions(3, 2, num, "hadamard")
    plan = plan or start_plan(perturb, num)
    with torch.no_grad():
        return measure_nodes(closure, list(params), directions, Evaluation(eps, sides, **settings), plan)


def error(found: NodeMeasurement, closure: Callable[[], Tensor], params: Sequence[Tensor]) -> float:
    """|ĝ - g| / |g| with g from autograd of the mean of what the closure returns."""
    params = list(params)
    value = closure()
    exact = torch.autograd.grad(value if value.dim() == 0 else value.mean(), params, allow_unused=True)
    pairs = [
        (torch.zeros_like(p) if g is None else g, torch.zeros_like(p) if h is None else h)
        for p, g, h in zip(params, exact, found.gradients, strict=True)
    ]
    off = sum(float((g - h).square().sum()) for g, h in pairs)
    return (off / sum(float(g.square().sum()) for g, _ in pairs)) ** 0.5


class Decoder(nn.Module):
    """A block of a transformer: tokens see earlier ones, or all, of their own sample."""

    def __init__(self, causal: bool) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(7, 8), nn.Parameter(torch.zeros(4, 8))
        self.norm, self.mix, self.out, self.head = (
            nn.LayerNorm(8),
            nn.Linear(8, 24),
            nn.Linear(8, 8),
            nn.Linear(8, 7),
        )
        self.causal = causal

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens) + self.place
        q, k, v = self.mix(self.norm(x)).chunk(3, -1)
        return self.head(x + self.out(F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)))


TOKENS = torch.tensor([[0, 3, 6, 1], [2, 2, 5, 0], [1, 4, 0, 6]])
NEXT = torch.tensor([[3, 6, 1, 0], [2, 5, 0, 1], [4, 0, 6, 3]])


def by_token(model: nn.Module) -> Tensor:
    return F.cross_entropy(model(TOKENS).transpose(1, 2), NEXT, reduction="none")


def flattened(model: nn.Module) -> Tensor:
    return F.cross_entropy(model(TOKENS).flatten(0, 1), NEXT.flatten())
