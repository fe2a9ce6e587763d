"""This project's contenders: the fused estimate fed to Adam, and ZO-SGD."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import zo_triton as zo


def hardware_dtype() -> torch.dtype:
    """bfloat16 where the processor multiplies it in hardware, float32 otherwise."""
    if torch.cuda.is_available():
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    # torch's own switch for bfloat16 also accepts processors that only emulate it.
    native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if native else torch.float32


class FusedAdam:
    """K fused directions a step, their averaged estimate in ``.grad``, torch's Adam on top.

    Args:
        model: Trained in place.
        lr: Learning rate.
        seed: Of the directions.
        directions: K.
        eps: Smoothing radius.
        sides: 1 or 2.
        compute_dtype: Of the differences; None takes :func:`hardware_dtype`.
    """

    def __init__(
        self,
        model: nn.Module,
        lr: float,
        seed: int,
        directions: int,
        eps: float = 1e-4,
        sides: int = 1,
        compute_dtype: torch.dtype | None = None,
    ) -> None:
        self.model, self.seed, self.directions, self.eps, self.sides = model, seed, directions, eps, sides
        self.compute_dtype = compute_dtype or hardware_dtype()
        self.parameters = list(model.parameters())
        self.optimizer = torch.optim.Adam(self.parameters, lr=lr, fused=True)
        self.evaluations_per_step = 1 + sides * directions
        self.steps_done = 0

    def step(self, x: Tensor, y: Tensor) -> float:
        """One update; returns the base loss."""
        loss = zo.estimate_gradient(
            lambda: F.cross_entropy(self.model(x), y),
            self.parameters,
            zo.Directions(self.seed, self.steps_done, self.directions),
            self.eps,
            sides=self.sides,
            compute_dtype=self.compute_dtype,
        )
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # others would spin on into the next step
        self.optimizer.step()
        torch.set_num_threads(threads)
        self.steps_done += 1
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
