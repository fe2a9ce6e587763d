"""This project's contenders: the fused estimate fed to torch's optimizers, and ZO-SGD."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import zo_triton as zo
from zo_triton.experiments.contender import falling_rate


def hardware_dtype() -> torch.dtype:
    """bfloat16 where the processor multiplies it in hardware, float32 otherwise."""
    if torch.cuda.is_available():
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    # torch's own switch for bfloat16 also accepts processors that only emulate it.
    native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if native else torch.float32


class Fused:
    """:class:`zo_triton.FusedTrainer` with Adam, or with SGD and momentum, behind the contenders' interface.

    Args:
        model: Trained in place.
        lr: Learning rate.
        seed: Of the directions.
        directions: K.
        eps: Smoothing radius.
        sides: 1 or 2.
        momentum: None for Adam, else SGD's μ.
        compute_dtype: Of the differences; None takes :func:`hardware_dtype`.
        decay_steps: Over which the learning rate falls linearly to nothing; None keeps it.
    """

    def __init__(
        self,
        model: nn.Module,
        lr: float,
        seed: int,
        directions: int,
        eps: float = 1e-4,
        sides: int = 1,
        momentum: float | None = None,
        compute_dtype: torch.dtype | None = None,
        decay_steps: int | None = None,
    ) -> None:
        optimizer: torch.optim.Optimizer
        if momentum is None:
            optimizer = torch.optim.Adam(model.parameters(), lr=lr, fused=True)
        else:
            optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=momentum)
        self.trainer = zo.FusedTrainer(
            model, optimizer, directions, eps, seed, sides, compute_dtype or hardware_dtype()
        )
        self.evaluations_per_step = 1 + sides * directions
        self._decay = falling_rate(optimizer, decay_steps)

    def step(self, x: Tensor, y: Tensor) -> float:
        """One update; returns the base loss."""
        loss = self.trainer.step(x, y)
        self._decay()
        return loss


class FusedSGD:
    """:class:`zo_triton.ZOSGD` behind the contenders' interface.

    Args:
        model: Trained in place.
        lr: Learning rate.
        seed: Of the directions.
        directions: K.
        eps: Smoothing radius.
        sides: 1 or 2.
        momentum: μ.
        compute_dtype: Of the differences; None takes :func:`hardware_dtype`.
        rank: Perturb matrices by rank-r products; None for full rank.
        chunk: Directions evaluated at once; None chooses.
    """

    def __init__(
        self,
        model: nn.Module,
        lr: float,
        seed: int,
        directions: int,
        eps: float = 1e-4,
        sides: int = 1,
        momentum: float = 0.0,
        compute_dtype: torch.dtype | None = None,
        rank: int | None = None,
        chunk: int | None = None,
    ) -> None:
        self.model = model
        self.optimizer = zo.ZOSGD(
            model.parameters(),
            lr=lr,
            directions=directions,
            eps=eps,
            seed=seed,
            sides=sides,
            momentum=momentum,
            compute_dtype=compute_dtype or hardware_dtype(),
            rank=rank,
            chunk=chunk,
        )
        self.evaluations_per_step = 1 + sides * directions

    def step(self, x: Tensor, y: Tensor) -> float:
        """One update; returns the base loss."""
        return self.optimizer.step(lambda: F.cross_entropy(self.model(x), y))
