"""Only low-rank adapters are trained: W + α/r·A·B beside frozen weights.

Source: Hu, Shen, Wallis, Allen-Zhu, Li, Wang, Wang and Chen, "LoRA: Low-Rank Adaptation of Large Language Models",
ICLR 2022; on the attention's projections of a decoder, as there.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from benchmarks.contenders.backprop import Backprop
from benchmarks.contenders.contender import Method, Setting
from benchmarks.contenders.fused import DTYPE, Fused, FusedSGD
from benchmarks.contenders.mezo import MeZO

RANK, SCALE = 4, 2.0
"""r, and α/r."""

ADAPTED = "c_attn"
"""GPT-2's projections to queries, keys and values; in a network without such every linear layer is adapted."""


class LowRank(nn.Module):
    """A frozen layer and its adapter, which begins as nothing: B is zero.

    Args:
        layer: Maps [..., inputs] to [..., outputs].
        inputs: Its width before.
        outputs: And after.
        generator: Draws A.
    """

    def __init__(self, layer: nn.Module, inputs: int, outputs: int, generator: torch.Generator) -> None:
        super().__init__()
        self.layer = layer
        self.first = nn.Parameter(torch.randn(inputs, RANK, generator=generator) / inputs**0.5)
        self.second = nn.Parameter(torch.zeros(RANK, outputs))

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output and the adapter's."""
        return self.layer(x) + SCALE * (x @ self.first @ self.second)


def with_adapters(model: nn.Module, seed: int = 0) -> nn.Module:
    """The model, frozen in place, with adapters that require a gradient.

    Args:
        model: Has layers named :data:`ADAPTED` with weights [inputs, outputs], as GPT-2, or linear layers.
        seed: Of the adapters.
    """
    generator = torch.Generator().manual_seed(seed)
    named = [name for name, _ in model.named_modules() if name.rpartition(".")[2] == ADAPTED]
    linear = [name for name, layer in model.named_modules() if isinstance(layer, nn.Linear)]
    model.requires_grad_(False)
    for name in named or linear:
        layer = model.get_submodule(name)
        weight = layer.get_parameter("weight")
        inputs, outputs = weight.shape if named else weight.shape[::-1]
        parent, _, own = name.rpartition(".")
        model.get_submodule(parent).add_module(own, LowRank(layer, inputs, outputs, generator))
    return model


def _lora(model: nn.Module, setting: Setting) -> nn.Module:
    return with_adapters(model, setting.seed)


METHODS = (
    Method("zo-lora", "fused, one-sided, LoRA", "fused", lambda m, s: FusedSGD(_lora(m, s), s), DTYPE),
    Method("zo-adam-lora", "fused ZO + Adam, LoRA", "fused", lambda m, s: Fused(_lora(m, s), s), DTYPE),
    Method(
        "mezo-1-lora", "MeZO loop, K = 1, LoRA", "zeroth",
        lambda m, s: MeZO(_lora(m, s), replace(s, directions=1)), directions=1,
    ),
    Method("adam-lora", "backprop + Adam, LoRA", "first", lambda m, s: Backprop(_lora(m, s), s)),
)  # fmt: skip
