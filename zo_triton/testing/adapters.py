"""This project's own optimizers as factories for the suite; for others they are patterns to follow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from zo_triton._interrupts import held_back
from zo_triton.directions import Directions
from zo_triton.optim import ZOSGD, BlackBox, FusedTrainer, estimate_gradient
from zo_triton.testing.problem import Closure, Problem

DIRECTIONS = 8


def zosgd(
    params: Sequence[Tensor], lr: float, eps: float, seed: int, directions: int = DIRECTIONS, **options: Any
) -> ZOSGD:
    """:class:`zo_triton.optim.ZOSGD` on a closure that returns a tensor; ``options`` are its own."""
    return ZOSGD(params, lr, directions, eps, seed, **options)


class _Evaluating:
    """Hands its closure on as a black box, so that weights really move."""

    def __init__(self, optimizer: ZOSGD) -> None:
        self._optimizer = optimizer

    def step(self, closure: Callable[[], Tensor], /) -> float:
        """One step on the closure's numbers."""
        return self._optimizer.step(BlackBox(closure))


def zosgd_black_box(
    params: Sequence[Tensor], lr: float, eps: float, seed: int, directions: int = DIRECTIONS, **options: Any
) -> _Evaluating:
    """:class:`zo_triton.optim.ZOSGD` on a :class:`zo_triton.optim.BlackBox`; ``options`` are its own."""
    return _Evaluating(ZOSGD(params, lr, directions, eps, seed, **options))


class _Estimating:
    """Fills ``.grad`` and lets torch's optimizer step, on float32 masters of low-precision weights."""

    def __init__(
        self,
        params: Sequence[Tensor],
        lr: float,
        eps: float,
        seed: int,
        optimizer: Callable[..., torch.optim.Optimizer],
        directions: int,
        options: dict[str, Any],
    ) -> None:
        self._params, self._eps, self._seed, self._directions = list(params), eps, seed, directions
        self._full = [param if param.dtype == torch.float32 else param.detach().float() for param in params]
        self._optimizer = optimizer(self._full, lr=lr)
        self._options = options
        self._steps = 0

    def step(self, closure: Callable[[], Tensor], /) -> float:
        """One estimate and one update. Torch's optimizers go tensor by tensor, so an interrupt waits."""
        with held_back():
            return self._step(closure)

    def _step(self, closure: Callable[[], Tensor]) -> float:
        directions = Directions(self._seed, self._steps, self._directions)
        loss = estimate_gradient(closure, self._params, directions, self._eps, **self._options)
        for param, full in zip(self._params, self._full, strict=True):
            if full is not param and param.grad is not None:
                full.grad = param.grad.float()
        self._optimizer.step()
        with torch.no_grad():
            for param, full in zip(self._params, self._full, strict=True):
                if full is not param:
                    param.copy_(full)
        self._steps += 1
        return loss


def estimated(
    params: Sequence[Tensor],
    lr: float,
    eps: float,
    seed: int,
    optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.SGD,
    directions: int = DIRECTIONS,
    **options: Any,
) -> _Estimating:
    """:func:`zo_triton.optim.estimate_gradient` and an optimizer of torch's; ``options`` are the estimate's.

    Low-precision weights get float32 masters here, as torch's optimizers keep none.
    """
    return _Estimating(params, lr, eps, seed, optimizer, directions, options)


class _Training:
    """A trainer is made of a model, which only the closure knows."""

    def __init__(
        self,
        params: Sequence[Tensor],
        lr: float,
        make: Callable[[Problem, torch.optim.Optimizer], FusedTrainer],
    ) -> None:
        self._optimizer = torch.optim.SGD(params, lr=lr)
        self._make = make
        self._trainer: FusedTrainer | None = None

    def step(self, closure: Closure, /) -> float:
        """One step on the closure's model and batch; on the general way it is evaluated through the closure."""
        problem = closure.problem
        if self._trainer is None:
            self._trainer = self._make(problem, self._optimizer)
        return self._trainer.step(problem.x, problem.y)


def fused_trainer(
    params: Sequence[Tensor], lr: float, eps: float, seed: int, directions: int = DIRECTIONS, **options: Any
) -> _Training:
    """:class:`zo_triton.optim.FusedTrainer` with torch's SGD; ``options`` are the trainer's."""

    def make(problem: Problem, optimizer: torch.optim.Optimizer) -> FusedTrainer:
        return FusedTrainer(problem.model, optimizer, directions, eps, seed, loss=problem.loss, **options)

    return _Training(params, lr, make)
