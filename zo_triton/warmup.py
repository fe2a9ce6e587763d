"""The first steps of common programs: taken ahead, they leave the CPU engine's kernels compiled for later runs."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from time import monotonic
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import zo_triton as zo

PROCESSES = 2
"""At a time. More would compile what programs have in common again and again."""


class Program(NamedTuple):
    """Something to take a first step of.

    Attributes:
        title: For a reader.
        step: Takes the step.
    """

    title: str
    step: Callable[[], object]


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


PROGRAMS = {
    "mlp": Program("an MLP with ZOSGD", lambda: _zosgd(_mlp(), _pixels(128, 64), 10)),
    "fused": Program("an MLP with FusedTrainer", lambda: _fused("weights")),
    "activations": Program("an MLP with FusedTrainer on activations", lambda: _fused("activations")),
    "cnn": Program("a CNN with ZOSGD", lambda: _zosgd(_convolutional(), _pixels(32, 1, 28, 28), 10)),
    "transformer": Program(
        "a transformer with ZOSGD", lambda: _zosgd(_Transformer(), _numbers(16, 8, 8), 16)
    ),
}


def check_names(names: Sequence[str]) -> list[str]:
    """The programs to warm up for, all of them if none is named.

    Raises:
        ValueError: There is no such program.
    """
    for name in names:
        if name not in PROGRAMS:
            raise ValueError(
                f"there is no program {name!r} to warm up for; choose among {', '.join(PROGRAMS)}."
            )
    return list(dict.fromkeys(names)) or list(PROGRAMS)


def warm_up(names: Sequence[str]) -> Iterator[tuple[str, float]]:
    """Takes the first step of each program in a process of its own.

    Yields:
        A program's name and the seconds that it took, as each is done.

    Raises:
        RuntimeError: A step failed; the message has the end of what it said.
    """
    with ThreadPoolExecutor(min(PROCESSES, os.cpu_count() or 1)) as pool:
        for done in as_completed([pool.submit(_in_own_process, name) for name in names]):
            yield done.result()


def _in_own_process(name: str) -> tuple[str, float]:
    start = monotonic()
    done = subprocess.run([sys.executable, "-m", __name__, name], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"the first step of {PROGRAMS[name].title} failed: {done.stderr.strip()[-400:]}")
    return name, monotonic() - start


if __name__ == "__main__":
    PROGRAMS[sys.argv[1]].step()
