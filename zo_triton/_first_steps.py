"""The first steps of common programs; a process that is given a name takes that one's."""

from __future__ import annotations

import sys

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import zo_triton as zo


class _Transformer(nn.Module):
    """One block between two embeddings and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(16, 16), nn.Embedding(8, 16)
        self.block = nn.TransformerEncoderLayer(
            16, 2, 32, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.head = nn.Linear(16, 16)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits [N, L, 16] of tokens [N, L]."""
        places = torch.arange(tokens.shape[1], dtype=torch.int64, device=tokens.device)
        return self.head(self.block(self.tokens(tokens) + self.places(places)))


def _pixels(*shape: int) -> Tensor:
    return torch.rand(shape, dtype=torch.float32, device="cpu")


def _numbers(below: int, *shape: int) -> Tensor:
    return torch.randint(below, shape, dtype=torch.int64, device="cpu")


def _mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))


def _convolutional() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(400, 10),
    )  # fmt: skip


def _zosgd(model: nn.Module, x: Tensor, classes: int) -> float:
    y = _numbers(classes, *(x.shape if x.dtype == torch.int64 else x.shape[:1]))
    optimizer = zo.ZOSGD(model.parameters(), lr=0.02, directions=64, eps=1e-4, seed=0)
    return optimizer.step(lambda: F.cross_entropy(model(x).flatten(0, -2), y.flatten()))


def _fused(perturb: str) -> float:
    model = _mlp()
    adam = torch.optim.Adam(model.parameters(), lr=0.02)
    trainer = zo.FusedTrainer(model, adam, directions=64, perturb=perturb)
    return trainer.step(_pixels(64, 64), _numbers(10, 64))


STEPS = {
    "mlp": lambda: _zosgd(_mlp(), _pixels(128, 64), 10),
    "fused": lambda: _fused("weights"),
    "activations": lambda: _fused("activations"),
    "cnn": lambda: _zosgd(_convolutional(), _pixels(32, 1, 28, 28), 10),
    "transformer": lambda: _zosgd(_Transformer(), _numbers(16, 8, 8), 16),
}
"""By the names of :data:`zo_triton.warmup.PROGRAMS`, what takes the step and returns its loss."""

if __name__ == "__main__":
    STEPS[sys.argv[1]]()
