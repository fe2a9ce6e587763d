"""Training by the fused estimate and a torch optimizer; a small MLP takes two compiled calls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from math import isfinite
from operator import is_
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from zo_triton import ops
from zo_triton._interrupts import check, held_back
from zo_triton._warn import warn
from zo_triton.difference import Evaluation, Plan
from zo_triton.difference.arguments import check_apart, check_parameters
from zo_triton.difference.exhaustion import explained
from zo_triton.difference.undo import taken_back
from zo_triton.directions import Directions
from zo_triton.optim import compilable
from zo_triton.optim.checks import LARGEST_SLOPE, check_perturb, default_distribution
from zo_triton.optim.compiled_inputs import checked_batch, is_compilable
from zo_triton.optim.descent import FULL_PRECISION, forgetting
from zo_triton.optim.errors import NonFiniteLossError, remedy
from zo_triton.optim.gradient_step import GradientStep
from zo_triton.optim.measure import Learned, measure
from zo_triton.optim.node_measure import measure_nodes, start_plan, tell_left_out
from zo_triton.optim.optimizer import ZOOptimizer
from zo_triton.optim.shield import shielded

if TYPE_CHECKING:
    from zo_triton.difference.nodes import NodePlan
    from zo_triton.distributed import Ranks, Take
    from zo_triton.distributed.agreement import Facts

COMPILED_LOSSES = (F.cross_entropy, F.mse_loss)
"""Losses that the compiled step knows."""


class FusedTrainer(GradientStep):
    """Training on K loss differences a step, with a torch optimizer.

    A step does what ``zo.estimate_gradient`` on ``loss(model(x), y)`` and ``optimizer.step()`` do.
    Where model and optimizer allow it (an ``nn.Sequential`` of ``Linear`` and ``ReLU`` in float32 that
    ``ops.offers_mlp`` accepts, plain Adam or SGD, the CPU engine) all of it runs in two compiled calls and
    ĝ is never written out, with orthogonal signs on activations where ``ops.why_no_node_step`` has nothing against
    it; anything else takes the general way. The optimizer's state and settings
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
        perturb: "weights"; "activations": signs on layers' outputs, each sample measured by its own loss; "auto":
            each layer where it costs less.
        distribution: rademacher, gaussian, uniform, laplace, sphere or hadamard; None is rademacher for weights and
            hadamard for activations.

    Attributes:
        steps_done: Successful steps, the ``step`` of the directions drawn next.
        log: Gets each step's coefficients before the weights move; see :class:`zo_triton.ReplayLog`.
        last: Loss and projected gradients of the latest step.
        is_fused: Whether the next step will run in compiled calls.

    Raises:
        TypeError: A parameter is not of a real floating type, or the optimizer measures for itself.
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
        perturb: str = "weights",
        distribution: str | None = None,
    ) -> None:
        if distribution is None:
            distribution = default_distribution(perturb)
        check_perturb(perturb, distribution, None)
        trained = _trained(model)
        params = list(trained.values())
        Evaluation(eps, sides, compute_dtype)
        check_parameters(params, Directions(seed, 0, directions, distribution), list(trained))
        check_apart(params, list(trained))
        if isinstance(optimizer, ZOOptimizer):
            kind = type(optimizer).__name__
            raise TypeError(
                f"a trainer measures for a torch optimizer, and a {kind} measures for itself; pass "
                f"torch.optim.{kind.removeprefix('ZO')}, or call {kind}.step(closure)."
            )
        held = _held(optimizer)
        if not _same(held, params):
            raise ValueError(
                f"the optimizer holds {len(held)} tensors that are not the model's {len(params)} trained "
                "parameters in their order; make it with [p for p in model.parameters() if p.requires_grad]."
            )
        low = sorted({str(param.dtype) for param in params if param.dtype not in FULL_PRECISION})
        if low:
            warn(
                f"parameters are in {', '.join(low)}, and torch's optimizers keep no master copy: updates below "
                "their spacing are lost. Keep them in float32, or train with zo.ZOSGD, which keeps one.",
                RuntimeWarning,
            )
        if ranks is not None:
            ranks.check_directions(directions)
        super().__init__(
            params, optimizer, directions, seed, compute_dtype, tuple(trained), distribution, perturb
        )
        self.model, self.eps, self.sides, self.loss = model, eps, sides, loss
        self.ranks = ranks
        self.fused = fused
        self._nodes: NodePlan | None = None
        self._is_small = ops.offers_mlp_step(
            self.params[0].device, Directions(seed, 0, directions), self.params[::2]
        )

    @property
    def is_fused(self) -> bool:
        """Whether the next step will run in compiled calls; :meth:`why_general` says why not."""
        return self.why_general() is None

    def why_general(self) -> str | None:
        """Why the next step will take the general way, in words; None if it will run in compiled calls.

        Asked anew at each step, because all of it may have changed: the model's layers, their hooks and those of
        all modules, a replaced ``forward``, the optimizer's rule, hooks and ``step``, a parameter's dtype.
        """
        if not self.fused:
            return "fused is False"
        if self.loss not in COMPILED_LOSSES:
            return "the loss is neither F.cross_entropy nor F.mse_loss"
        why = self._why_not_weights() if self.perturb == "weights" else self._why_not_nodes()
        if why is not None:
            return why
        if ops.engine_for(self.params[0].device) != "cpu":
            return "another engine than the CPU's was chosen"
        return compilable.why_not(self.model, self.params, self.optimizer)

    def _why_not_weights(self) -> str | None:
        if self.distribution != "rademacher":
            return f"the distribution is {self.distribution!r}, not 'rademacher'"
        return None if self._is_small else "the model is not a small one on the CPU"

    def _why_not_nodes(self) -> str | None:
        if self.perturb != "activations":
            return f"perturb is {self.perturb!r}: some layers' weights may be perturbed"
        if self.ranks is not None:
            return "ranks share a step that perturbs activations"
        drawn = Directions(self.seed, 0, self.directions, self.distribution)
        return ops.why_no_node_step(self.params[0].device, drawn, self.params[::2])

    def step(self, x: Tensor, y: Tensor) -> float:
        """One update.

        Args:
            x: Inputs, [N, …].
            y: Class indices, [N] int64, or shares of the classes, [N, C]; targets, [N, C] float32, for
                ``F.mse_loss``; what another loss takes.

        Returns:
            The base loss.

        Raises:
            TypeError: The labels are no int64 tensor, or the targets no float32 one.
            NonFiniteLossError: The loss or every difference is not finite. Nothing has changed then.
            ValueError: Shapes do not fit, a label is out of range, or model or optimizer hold other parameters
                than when the trainer was made, or a hook does what the log can't hold. Nothing has changed then.
        """
        with explained(), held_back(), torch.no_grad(), taken_back():
            self.last = self._step(x, y)
        loss = self.last.loss
        for hook in tuple(self.step_post_hooks.values()):
            hook(self, (x, y), {})
        return loss

    def _step(self, x: Tensor, y: Tensor) -> Learned:
        if self.log is not None:
            self.log.check()
        if self.ranks is not None:
            self.ranks.note(x, y)
            self.ranks.check(self._facts)
        compiled = self.is_fused and is_compilable(x, y, self.loss)
        if not compiled:
            self._check_trained()
        directions = self.next_directions()
        if self.perturb != "weights":
            move = self._step_on_nodes_compiled if compiled else self._step_on_nodes
            return move(x, y, directions)
        run = self._measure_compiled if compiled else self._measure_general
        learned, coefficients = run(x, y, directions)
        check()
        self._apply(coefficients, compiled, directions)
        return learned

    def _measure_general(self, x: Tensor, y: Tensor, directions: Directions) -> tuple[Learned, Tensor]:
        """What was measured, and the coefficients of the average, [K] float32."""
        closure, plan = self._closure(x, y), _from_json(self.plan)
        measurement = measure(closure, self.params, directions, self._evaluation, plan, self.ranks)
        self.plan = _as_json(measurement.plan)
        learned = Learned(measurement.loss, measurement.projected, measurement.usable)
        return learned, measurement.coefficients(self.params, "average")

    def _closure(self, x: Tensor, y: Tensor) -> Callable[..., Tensor]:
        """The loss of a batch, or of a part of it."""
        model, loss = self.model, self.loss  # not the trainer, in all of which a run would look for modules

        def closure(take: Take = _whole) -> Tensor:
            return loss(model(take(x)), take(y))

        return closure

    def _step_on_nodes(self, x: Tensor, y: Tensor, directions: Directions) -> Learned:
        """A whole step with noise on layers' outputs."""
        check_perturb(self.perturb, self.distribution, None)
        first = start_plan(self.perturb, directions.num)
        plan = replace(_from_json(self.plan) or first, nodes=self._nodes or first.nodes)
        closure = self._closure(x, y)
        measured = measure_nodes(closure, self.params, directions, self._evaluation, plan, self.ranks)
        check()
        self._apply_gradients(measured.gradients)
        self.plan, self._nodes = _as_json(measured.plan), measured.plan.nodes
        return Learned(measured.loss)

    def _step_on_nodes_compiled(self, x: Tensor, y: Tensor, directions: Directions) -> Learned:
        """The same in two compiled calls."""
        tensors = self._arrays()
        x, target = checked_batch(x, y, tensors, self.loss)
        measured = ops.node_mlp_measure(tensors, x.numpy(), target, directions, self.eps, self.sides)
        loss, left_out, samples = measured.loss, measured.left_out, x.shape[0]
        if not isfinite(loss) or left_out == samples:
            found = f"and no sample of {samples} has finite differences" if isfinite(loss) else "not finite"
            raise NonFiniteLossError(
                f"the loss is {loss}, {found}: the step is refused and the weights stay as they are; "
                + remedy(self.eps)
            )
        if left_out:
            tell_left_out(left_out, samples, self.eps)
        check()
        with shielded(self.params), forgetting(self.optimizer.state):
            memory = self._memories()
            ops.node_mlp_update(tensors, *self._rule(memory), x.numpy(), measured)
            self._count(memory)
        return Learned(loss)

    def _measure_compiled(self, x: Tensor, y: Tensor, directions: Directions) -> tuple[Learned, Tensor]:
        """The same in one compiled call."""
        tensors, signed_eps = self._arrays(), _signed_eps(self._evaluation, directions.num)
        x, target = checked_batch(x, y, tensors, self.loss)

        def measured(first: int, stop: int, take: Take) -> tuple[float, Tensor]:
            # Each direction is measured by itself: how many go through one call changes no bit.
            loss, found = ops.mlp_measure(
                tensors, take(x).numpy(), take(target), directions[first:stop],
                signed_eps[first * self.sides : stop * self.sides], self.compute_dtype,
            )  # fmt: skip
            return loss, torch.from_numpy(found).view(stop - first, self.sides)

        if self.ranks is None:
            loss, found = ops.mlp_measure(
                tensors, x.numpy(), target, directions, signed_eps, self.compute_dtype
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
        slopes = projected / np.float32(self.eps)
        usable = np.abs(slopes) < LARGEST_SLOPE
        count = np.count_nonzero(usable)
        if count == 0:
            raise NonFiniteLossError(
                f"the loss is {loss} but none of its {projected.size} differences is finite: the step is refused "
                f"and the weights stay as they are; {remedy(self.eps)}"
            )
        learned = Learned(loss, torch.from_numpy(slopes))
        if count < projected.size:
            learned = learned._replace(usable=torch.from_numpy(usable))
            projected = np.where(usable, projected, np.float32(0))
        return learned, torch.from_numpy(projected / np.float32(self.eps * count))

    @property
    def _evaluation(self) -> Evaluation:
        return Evaluation(self.eps, self.sides, self.compute_dtype)

    def __repr__(self) -> str:
        """What names a step's directions, and who moves the weights."""
        names = ("directions", "eps", "seed", "distribution", "perturb", "sides", "steps_done")
        shown = ", ".join(f"{name}={getattr(self, name)!r}" for name in names)
        return f"FusedTrainer({type(self.model).__name__}, {type(self.optimizer).__name__}, {shown})"

    def _check_trained(self) -> None:
        """Refuses a step that would move tensors the model no longer runs, or leave out those it runs instead."""
        trained = _trained(self.model)
        if _same(list(trained.values()), self.params) and _same(_held(self.optimizer), self.params):
            return
        new = [name for name, param in trained.items() if all(param is not each for each in self.params)]
        raise ValueError(
            f"the model's {len(trained)} trained parameters are no longer the {len(self.params)} that the trainer "
            f"was made with and the optimizer holds (new: {', '.join(new[:4]) or 'none'}): a layer was replaced, "
            "frozen or added, a state loaded with assign=True, or a group added to the optimizer. Make optimizer "
            "and trainer anew."
        )

    def _facts(self) -> Facts:
        """What the ranks must have in common."""
        names = ("steps_done", "directions", "eps", "seed", "sides", "compute_dtype", "fused", "perturb",
                 "distribution")  # fmt: skip
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


def _trained(model: nn.Module) -> dict[str, Tensor]:
    return {name: param for name, param in model.named_parameters() if param.requires_grad}


def _held(optimizer: Optimizer) -> list[Tensor]:
    return [param for group in optimizer.param_groups for param in group["params"]]


def _same(some: Sequence[Tensor], others: Sequence[Tensor]) -> bool:
    """Whether they are the very same tensors."""
    return len(some) == len(others) and all(map(is_, some, others))


@lru_cache(maxsize=8)
def _signed_eps(evaluation: Evaluation, directions: int) -> np.ndarray:
    """sε of each evaluation, [K·sides] float32; the plus side stands first."""
    return np.tile(np.array(evaluation.steps, np.float32), directions)


def _as_json(plan: Plan | None) -> dict[str, Any] | None:
    """All but what is known of the layers, which is found out anew."""
    if plan is None:
        return None
    kept = {name: getattr(plan, name) for name in ("chunk", "fixed", "taped", "mends")}
    return {**kept, "keep": sorted(plan.keep)}


def _from_json(plan: dict[str, Any] | None) -> Plan | None:
    return None if plan is None else Plan(**{**plan, "keep": frozenset(plan["keep"])})
