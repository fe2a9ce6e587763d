"""Backpropagation as quick as torch makes it: a whole step of Adam as one graph by ``torch.compile``.

Compiling the loss alone leaves autograd's and the optimizer's Python in each step, which on small networks takes
longer than the arithmetic. Here loss, gradient and torch's own Adam are one function of tensors.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value
from torch.optim.adam import adam

from benchmarks.contenders.contender import COMPILER, Contender, Loss, Method, Setting

Tensors = list[Tensor]

NETWORKS = 64
"""Kinds of networks and batches, and numbers of threads, that one process compiles before it refuses."""


class CompiledAdam(Contender):
    """Takes the steps of :class:`~benchmarks.contenders.backprop.Backprop` with Adam, within rounding.

    A process compiles once for all networks of one kind; what is compiled is kept on disk by torch.

    Args:
        model: Trained in place.
        setting: Its learning rate, decay and loss count.
    """

    evaluations_per_step = 3

    def __init__(self, model: nn.Module, setting: Setting) -> None:
        named = {name: each for name, each in model.named_parameters() if each.requires_grad}
        self._lr, self._decay_steps, self._taken = setting.lr, setting.decay_steps, 0
        # The parameters' own memory, without autograd.
        self._held: list[Tensors] = [[param.detach() for param in named.values()]]
        self._held += [[torch.zeros_like(param) for param in self._held[0]] for _ in range(2)]
        self._held.append([torch.zeros((), device=param.device) for param in self._held[0]])
        # Without fullgraph a part that can't be compiled would run as it is, and nobody would know.
        self._step: Callable[..., Tensor] = torch.compile(
            _whole_step(model, list(named), setting.loss), fullgraph=True, dynamic=False
        )

    def prepare(self, x: Tensor, y: Tensor) -> None:
        """Compiles, or finds what was compiled, by a step on copies."""
        with torch._dynamo.config.patch(recompile_limit=NETWORKS), warnings.catch_warnings():
            # The compiler's own code is deprecated in places, which says nothing of the race.
            warnings.simplefilter("ignore", DeprecationWarning)
            self._run([[each.clone() for each in tensors] for tensors in self._held], x, y)

    def step(self, x: Tensor, y: Tensor) -> Tensor:
        """One update; returns the loss before it, which nobody has waited for."""
        loss = self._run(self._held, x, y)
        self._taken += 1
        return loss

    @torch.no_grad()
    def _run(self, held: list[Tensors], x: Tensor, y: Tensor) -> Tensor:
        left = 1.0 if self._decay_steps is None else max(0.0, 1.0 - self._taken / self._decay_steps)
        return self._step(*held, torch.tensor(left * self._lr, device=x.device), x, y)


def _whole_step(model: nn.Module, names: list[str], loss: Loss) -> Callable[..., Tensor]:
    """From parameters, Adam's two moments and its counts of steps, all changed in place, to the loss before."""

    def value(params: Tensors, x: Tensor, y: Tensor) -> Tensor:
        return loss(functional_call(model, dict(zip(names, params, strict=True)), (x,)), y)

    gradient: Any = grad_and_value(value)

    def step(
        params: Tensors, first: Tensors, second: Tensors, counts: Tensors, lr: Tensor, x: Tensor, y: Tensor
    ) -> Tensor:
        slopes, before = gradient(params, x, y)
        # Not in one fused call, which torch.compile knows nothing of: it writes one itself.
        adam(
            params, list(slopes), first, second, [], counts, foreach=False, fused=False, amsgrad=False,
            beta1=0.9, beta2=0.999, lr=lr, weight_decay=0.0, eps=1e-8, maximize=False,
        )  # fmt: skip
        return before

    return step


METHODS = (Method("adam-compiled", "backprop + Adam, compiled", "first", CompiledAdam, needs=(COMPILER,)),)
