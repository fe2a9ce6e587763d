"""Training by the fused estimate and a torch optimizer; a small MLP takes two compiled calls."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict
from math import isfinite
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from zo_triton import ops
from zo_triton.difference import Evaluation, Plan
from zo_triton.difference.arguments import check_parameters
from zo_triton.directions import Directions
from zo_triton.optim.checks import LARGEST_SLOPE
from zo_triton.optim.descent import FULL_PRECISION
from zo_triton.optim.errors import NonFiniteLossError
from zo_triton.optim.gradient_step import GradientStep, is_plain
from zo_triton.optim.measure import measure

if TYPE_CHECKING:
    from zo_triton.distributed import Ranks, Take
    from zo_triton.distributed.agreement import Facts

COMPILED_LOSSES = (F.cross_entropy, F.mse_loss)
"""Losses that the compiled step knows."""


class FusedTrainer(GradientStep):
    """Training on K loss differences a step, with a torch optimizer.

    A step does what ``zo.estimate_gradient`` on ``loss(model(x), y)`` and ``optimizer.step()`` do.
    Where model and optimizer allow it (an ``nn.Sequential`` of ``Linear`` and ``ReLU`` in float32 that
    ``ops.offers_mlp`` accepts, plain Adam or SGD, the CPU engine) all of it runs in two compiled calls and
    ĝ is never written out; anything else takes the general way. The optimizer's state and settings
    are read and written in place, so its state dict, and schedulers of its learning rate, work as always.

    Args:
        model: From inputs [N, …] to logits or outputs [N, C]; trained in place.
        optimizer: Holds the trained parameters in one group, in the model's order.
        directions: K, directions a step.
        eps: Smoothing radius ε.
        seed: Key of the noise, in [0, 2**64).
        sides: 1 for L(θ+εz) - L(θ), 2 for central differences.
        compute_dtype: Of the differences on the general way. The compiled calls compute in float32; bfloat16
            allows them 16-bit fixed point for the signed sums of a layer's base input.
        fused: False always takes the general way.
        loss: From (output, target) to what is minimised; any but ``F.cross_entropy`` and ``F.mse_loss`` takes
            the general way.
        ranks: Share each step's measuring among processes that all hold this trainer.

    Attributes:
        steps_done: Successful steps, the ``step`` of the directions drawn next.
        log: Gets each step's coefficients before the weights move; see :class:`zo_triton.ReplayLog`.
        is_fused: Whether the next step will run in compiled calls.

    Raises:
        TypeError: A parameter is not of a real floating type.
        ValueError: A setting is out of range, or the optimizer holds other tensors than the model.

    Warns:
        RuntimeWarning: A parameter is of low precision, where torch's optimizers lose small updates.

    Example:
        >>> import torch, zo_triton as zo
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
        >>> adam = torch.optim.Adam(model.parameters(), lr=0.02)
        >>> trainer = zo.FusedTrainer(model, adam, directions=32)
        >>> loss = trainer.step(torch.randn(16, 4), torch.randint(0, 3, (16,)))
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        directions: int = 64,
        eps: float = 1e-4,
        seed: int = 0,
        sides: int = 1,
        compute_dtype: torch.dtype = torch.float32,
        fused: bool = True,
        loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
        ranks: Ranks | None = None,
    ) -> None:
        trained = {name: param for name, param in model.named_parameters() if param.requires_grad}
        params = list(trained.values())
        evaluation = Evaluation(eps, sides, compute_dtype)
        check_parameters(params, Directions(seed, 0, directions))
        held = [param for group in optimizer.param_groups for param in group["params"]]
        if [id(param) for param in held] != [id(param) for param in params]:
            raise ValueError(
                f"the optimizer holds {len(held)} tensors that are not the model's {len(params)} trained "
                "parameters in their order; make it with model.parameters()."
            )
        low = sorted({str(param.dtype) for param in params if param.dtype not in FULL_PRECISION})
        if low:
            warnings.warn(
                f"parameters are in {', '.join(low)}, and torch's optimizers keep no master copy: updates below "
                "their spacing are lost. Keep them in float32, or train with zo.ZOSGD, which keeps one.",
                RuntimeWarning,
                stacklevel=2,
            )
        if ranks is not None:
            ranks.check_directions(directions)
        super().__init__(params, optimizer, directions, seed, compute_dtype, tuple(trained))
        self.model, self.eps, self.sides, self.loss = model, eps, sides, loss
        self.ranks = ranks
        self.fused = fused and loss in COMPILED_LOSSES
        self._signed_eps = np.tile(np.array(evaluation.steps, np.float32), directions)
        self._is_small = ops.offers_mlp_step(
            self.params[0].device, Directions(seed, 0, directions), self.params[::2]
        )

    @property
    def is_fused(self) -> bool:
        """Whether the next step will run in compiled calls."""
        return (
            self.fused
            and self._is_small
            and _is_relu_mlp(self.model, self.params)  # it may have got a hook, or another dtype
            and ops.engine_for(self.params[0].device) == "cpu"
            and is_plain(self.optimizer)
        )

    @torch.no_grad()
    def step(self, x: Tensor, y: Tensor) -> float:
        """One update.

        Args:
            x: Inputs, [N, …].
            y: Class indices, [N] int64; targets, [N, C] float32, for ``F.mse_loss``; what another loss takes.

        Returns:
            The base loss.

        Raises:
            TypeError: The labels are no int64 tensor, or the targets no float32 one.
            NonFiniteLossError: The loss or every difference is not finite. Nothing has changed then.
            ValueError: Shapes do not fit, or a label is out of range. Nothing has changed then.
        """
        if self.ranks is not None:
            self.ranks.note(x, y)
            self.ranks.check(self._facts)
        compiled = self.is_fused and x.dtype == torch.float32
        directions = self.next_directions()
        run = self._measure_compiled if compiled else self._measure_general
        loss, coefficients = run(x, y, directions)
        self._apply(coefficients, compiled, directions)
        return loss

    def _measure_general(self, x: Tensor, y: Tensor, directions: Directions) -> tuple[float, Tensor]:
        """The loss and the coefficients of the average, [K] float32."""

        def closure(take: Take = _whole) -> Tensor:
            return self.loss(self.model(take(x)), take(y))

        evaluation = Evaluation(self.eps, self.sides, self.compute_dtype)
        plan = _from_json(self.plan)
        measurement = measure(closure, self.params, directions, evaluation, plan, self.ranks)
        self.plan = _as_json(measurement.plan)
        return measurement.loss, measurement.coefficients(self.params, "average")

    def _measure_compiled(self, x: Tensor, y: Tensor, directions: Directions) -> tuple[float, Tensor]:
        """The same in one compiled call."""
        tensors = self._arrays()
        inputs, classes = tensors[0].shape[1], tensors[-1].shape[1]
        _check_inputs(x, inputs)
        target = (
            _checked_targets(y, x.shape[0], classes)
            if self.loss is F.mse_loss
            else _checked_labels(y, x.shape[0], classes)
        )
        x = x.contiguous()

        def measured(first: int, stop: int, take: Take) -> tuple[float, Tensor]:
            # Each direction is measured by itself: how many go through one call changes no bit.
            loss, found = ops.mlp_measure(
                tensors, take(x).numpy(), take(target), directions[first:stop],
                self._signed_eps[first * self.sides : stop * self.sides], self.compute_dtype,
            )  # fmt: skip
            return loss, torch.from_numpy(found).view(stop - first, self.sides)

        if self.ranks is None:
            loss, found = ops.mlp_measure(
                tensors, x.numpy(), target, directions, self._signed_eps, self.compute_dtype
            )
        else:
            loss, differences = self.ranks.share(measured, directions.num)
            found = differences.view(-1).numpy()
        if not isfinite(loss):
            raise NonFiniteLossError(
                f"the loss is {loss}: the step is refused and the weights stay as they are; restart from a "
                "checkpoint with a lower lr."
            )
        projected = found if self.sides == 1 else (found[::2] - found[1::2]) / np.float32(2)
        usable = np.abs(projected / np.float32(self.eps)) < LARGEST_SLOPE
        count = np.count_nonzero(usable)
        if count == 0:
            raise NonFiniteLossError(
                f"the loss is {loss} but none of its {projected.size} differences is finite: the step is refused "
                f"and the weights stay as they are; lower eps={self.eps}."
            )
        if count < projected.size:
            projected = np.where(usable, projected, np.float32(0))
        return loss, torch.from_numpy(projected / np.float32(self.eps * count))

    def _facts(self) -> Facts:
        """What the ranks must have in common."""
        names = ("steps_done", "directions", "eps", "seed", "sides", "compute_dtype", "fused")
        settings = {name: getattr(self, name) for name in names}
        settings["optimizer"] = type(self.optimizer).__name__
        for number, group in enumerate(self.optimizer.param_groups):
            settings |= {f"group {number}.{key}": value for key, value in group.items() if key != "params"}
        states = [self.optimizer.state.get(param, {}) for param in self.params]
        memory = [
            value for state in states for _, value in sorted(state.items()) if isinstance(value, Tensor)
        ]
        return {
            "weights": [*self.params, *self.model.buffers()],
            "optimizer state": memory,
            "settings": settings,
        }


def _whole(batch: Any) -> Any:
    return batch


def _check_inputs(x: Tensor, inputs: int) -> None:
    if x.dim() != 2 or x.shape[1] != inputs or x.shape[0] == 0:
        raise ValueError(f"x must be a batch [N, {inputs}] of at least one example, got {tuple(x.shape)}.")


def _checked_labels(y: Tensor, examples: int, classes: int) -> np.ndarray:
    if y.shape != (examples,):
        raise ValueError(f"y must be [{examples}], one label an example, got {tuple(y.shape)}.")
    if y.dtype != torch.int64:
        raise TypeError(f"y must hold class indices in int64, got {y.dtype}.")
    labels = y.contiguous().numpy()
    # As an unsigned number a negative one is larger than any class.
    if labels.view(np.uint64).max() >= classes:
        raise ValueError(f"labels must be in [0, {classes}), got {labels.min()} to {labels.max()}.")
    return labels


def _checked_targets(y: Tensor, examples: int, outputs: int) -> np.ndarray:
    if y.shape != (examples, outputs):
        raise ValueError(
            f"y must be [{examples}, {outputs}] like the outputs, got {tuple(y.shape)}; a smaller shape would "
            "be broadcast."
        )
    if y.dtype != torch.float32:
        raise TypeError(f"y must hold targets in float32, got {y.dtype}; call y.float().")
    return y.contiguous().numpy()


def _is_relu_mlp(model: nn.Module, params: Sequence[Tensor]) -> bool:
    """Whether the model is Linear, ReLU, Linear, … Linear, all float32, contiguous, with bias and trained."""
    if not isinstance(model, nn.Sequential) or type(model).forward is not nn.Sequential.forward:
        return False
    if len(model) % 2 == 0:
        return False
    kinds = [type(layer) for layer in model]
    if any(kind is not nn.Linear for kind in kinds[::2]) or any(kind is not nn.ReLU for kind in kinds[1::2]):
        return False
    if len(params) != len(model) + 1:
        return False
    for module in (model, *model):
        if module._forward_hooks or module._forward_pre_hooks:
            return False
    for param in params:
        if param.dtype != torch.float32 or not param.is_contiguous() or not param.is_cpu:
            return False
    return True


def _as_json(plan: Plan | None) -> dict[str, Any] | None:
    return None if plan is None else {**asdict(plan), "keep": sorted(plan.keep)}


def _from_json(plan: dict[str, Any] | None) -> Plan | None:
    return None if plan is None else Plan(plan["chunk"], plan["fixed"], frozenset(plan["keep"]))
