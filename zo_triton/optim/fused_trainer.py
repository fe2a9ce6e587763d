"""Training by the fused estimate and a torch optimizer; a small MLP takes three compiled calls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import isfinite, sqrt
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer

from zo_triton import ops
from zo_triton.difference import Plan
from zo_triton.directions import Directions
from zo_triton.optim.checks import check_eps, check_evaluation, check_parameters
from zo_triton.optim.estimate import write_gradients
from zo_triton.optim.measure import measure

if TYPE_CHECKING:
    from zo_triton.distributed import Facts, Ranks, Take

COMPILED_LOSSES = (F.cross_entropy, F.mse_loss)
"""Losses that the compiled step knows."""

_PLAIN_ADAM = {"amsgrad": False, "maximize": False, "decoupled_weight_decay": False}
_PLAIN_SGD = {"nesterov": False, "maximize": False, "dampening": 0}


class FusedTrainer:
    """Training on K loss differences a step, with a torch optimizer.

    A step does what ``zo.estimate_gradient`` on ``loss(model(x), y)`` and ``optimizer.step()`` do.
    Where model and optimizer allow it (an ``nn.Sequential`` of ``Linear`` and ``ReLU`` in float32 that
    ``ops.offers_mlp`` accepts, plain Adam or SGD, the CPU engine) all of it runs in three compiled calls and
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
        is_fused: Whether the next step will run in compiled calls.

    Raises:
        TypeError: A parameter is not of a real floating type.
        ValueError: A setting is out of range, or the optimizer holds other tensors than the model.

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
        self.params = [param for param in model.parameters() if param.requires_grad]
        check_eps(eps)
        check_evaluation(sides, compute_dtype, None)
        check_parameters(self.params, Directions(seed, 0, directions))
        held = [param for group in optimizer.param_groups for param in group["params"]]
        if [id(param) for param in held] != [id(param) for param in self.params]:
            raise ValueError(
                f"the optimizer holds {len(held)} tensors that are not the model's {len(self.params)} trained "
                "parameters in their order; make it with model.parameters()."
            )
        if ranks is not None:
            ranks.check_directions(directions)
        self.model, self.optimizer, self.ranks = model, optimizer, ranks
        self.directions, self.eps, self.seed, self.sides = directions, eps, seed, sides
        self.compute_dtype, self.loss = compute_dtype, loss
        self.fused = fused and loss in COMPILED_LOSSES
        self.steps_done = 0
        self._plan: Plan | None = None  # how the last general step was cut up
        self._array_of = _Arrays(12 * len(self.params))
        self._scratch: list[dict[str, Any]] = [{} for _ in self.params]  # for SGD, which remembers nothing
        self._signed_eps = np.tile(np.array([eps, -eps][:sides], np.float32), directions)
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
            and _is_plain(self.optimizer)
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
            ValueError: Shapes do not fit, a label is out of range, or the loss or every difference is not
                finite. Nothing has changed then.
        """
        directions = Directions(self.seed, self.steps_done, self.directions)
        if self.ranks is not None:
            self.ranks.note(x, y)
            self.ranks.check(self._facts)
        if self.is_fused and x.dtype == torch.float32:
            loss = self._fused_step(x, y, directions)
        else:
            loss = self._general_step(x, y, directions)
        self.steps_done += 1
        return loss

    def _general_step(self, x: Tensor, y: Tensor, directions: Directions) -> float:
        check_parameters(self.params, directions)

        def closure(take: Take = _whole) -> Tensor:
            return self.loss(self.model(take(x)), take(y))

        measurement = measure(
            closure, self.params, directions, self.eps, self.sides, self.compute_dtype, plan=self._plan,
            ranks=self.ranks,
        )  # fmt: skip
        self._plan = measurement.plan
        # On one thread where the engine has its own: torch's others would spin on into the next step.
        with ops.whole_step(self.params[0].device):
            write_gradients(self.params, measurement, "average")
            self.optimizer.step()
        return measurement.loss

    def _fused_step(self, x: Tensor, y: Tensor, directions: Directions) -> float:
        tensors = [self._array_of(param) for param in self.params]
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
            loss, differences = measured(0, directions.num, _whole)
        else:
            loss, differences = self.ranks.share(measured, directions.num)
        found = differences.view(-1).numpy()
        if not isfinite(loss):
            raise ValueError(
                f"the loss is {loss}: the step is refused and the weights stay as they are; restart from a "
                "checkpoint with a lower lr."
            )
        projected = found if self.sides == 1 else (found[::2] - found[1::2]) / np.float32(2)
        usable = np.isfinite(projected)
        count = np.count_nonzero(usable)
        if count == 0:
            raise ValueError(
                f"the loss is {loss} but none of its {projected.size} differences is finite: the step is refused "
                f"and the weights stay as they are; lower eps={self.eps}."
            )
        coefficients = np.where(usable, projected, 0) / np.float32(self.eps * count)
        ops.mlp_update(tensors, *self._rule(), coefficients, directions)
        # By this torch's schedulers know that the optimizer has stepped.
        self.optimizer._opt_called = True  # type: ignore[attr-defined]
        return loss

    def _facts(self) -> Facts:
        """What the ranks must have in common."""
        group = {
            f"group.{key}": value for key, value in self.optimizer.param_groups[0].items() if key != "params"
        }
        names = ("steps_done", "directions", "eps", "seed", "sides", "compute_dtype", "fused")
        settings = {name: getattr(self, name) for name in names}
        memory = [
            value
            for state in self._states()
            for _, value in sorted(state.items())
            if isinstance(value, Tensor)
        ]
        return {
            "weights": [*self.params, *self.model.buffers()],
            "optimizer state": memory,
            "settings": {**settings, "optimizer": type(self.optimizer).__name__, **group},
        }

    def _rule(self) -> tuple[Sequence[np.ndarray], Sequence[np.ndarray], tuple[float, ...]]:
        """The optimizer's memory and this step's numbers, as ``ops.mlp_update`` takes them."""
        group = self.optimizer.param_groups[0]
        if isinstance(self.optimizer, SGD):
            momentum = group["momentum"]
            first = self._memory(self._states() if momentum else self._scratch, "momentum_buffer")
            return first, first, (group["lr"], momentum, -1.0, 1.0, 0.0, group["weight_decay"])
        states = self._states()
        beta1, beta2 = group["betas"]
        for state in states:
            if "step" not in state:
                state["step"] = torch.zeros(())
            self._array_of(state["step"])[...] += 1
        taken = float(self._array_of(states[0]["step"])[0, 0])
        first, second = self._memory(states, "exp_avg"), self._memory(states, "exp_avg_sq")
        lr = float(group["lr"]) / (1 - beta1**taken)
        return first, second, (lr, beta1, beta2, sqrt(1 - beta2**taken), group["eps"], group["weight_decay"])

    def _states(self) -> list[dict[str, Any]]:
        return [self.optimizer.state[param] for param in self.params]

    def _memory(self, states: Sequence[dict[str, Any]], key: str) -> list[np.ndarray]:
        for state, param in zip(states, self.params, strict=True):
            if state.get(key) is None:
                state[key] = torch.zeros_like(param, requires_grad=False)
        return [self._array_of(state[key]) for state in states]


def _whole(batch: Any) -> Any:
    return batch


class _Arrays:
    """Matrices over the memory of at most ``most`` tensors, kept: making them costs a tenth of a small step."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._kept: dict[int, tuple[Tensor, int, torch.Size, np.ndarray]] = {}

    def __call__(self, tensor: Tensor) -> np.ndarray:
        """The tensor as a matrix of its rows, [1, 1] for a scalar; a write to one is a write to the other."""
        kept = self._kept.get(id(tensor))
        current = (tensor.data_ptr(), tensor.shape)
        if kept is None or kept[0] is not tensor or kept[1:3] != current:
            if len(self._kept) >= self._most:  # another state was loaded, again and again
                self._kept.clear()
            columns = tensor.shape[-1] if tensor.dim() else 1
            array = tensor.detach().numpy().reshape(-1, columns)
            # The tensor is kept too: another could take its place in memory, and its id.
            kept = self._kept[id(tensor)] = (tensor, *current, array)
        return kept[3]


def _check_inputs(x: Tensor, inputs: int) -> None:
    if x.dim() != 2 or x.shape[1] != inputs or x.shape[0] == 0:
        raise ValueError(f"x must be a batch [N, {inputs}] of at least one example, got {tuple(x.shape)}.")


def _checked_labels(y: Tensor, examples: int, classes: int) -> np.ndarray:
    if y.shape != (examples,):
        raise ValueError(f"y must be [{examples}], one label an example, got {tuple(y.shape)}.")
    if y.dtype != torch.int64:
        raise TypeError(f"y must hold class indices in int64, got {y.dtype}.")
    labels = y.contiguous().numpy()
    if labels.min() < 0 or labels.max() >= classes:
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


def _is_plain(optimizer: Optimizer) -> bool:
    """Whether the compiled update knows the optimizer's rule: one group of torch's own Adam or SGD."""
    if len(optimizer.param_groups) != 1:
        return False
    group, kind = optimizer.param_groups[0], type(optimizer)
    expected = _PLAIN_ADAM if kind is Adam else _PLAIN_SGD if kind is SGD else None
    if expected is None or isinstance(group["lr"], Tensor):
        return False
    return all(group.get(key, value) == value for key, value in expected.items())


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
    if any(module._forward_hooks or module._forward_pre_hooks for module in model.modules()):
        return False
    return all(
        param.dtype == torch.float32 and param.is_contiguous() and param.device.type == "cpu"
        for param in params
    )
