"""What a step of FusedTrainer does to the weights, given its coefficients: a torch optimizer's rule along ĝ.

ĝ = Σ_k a_k·z_k. A function of the weights, the optimizer's state and settings, the directions and the
coefficients. There are two ways, which agree to rounding: the compiled one, and the general one
through ``.grad`` and ``optimizer.step``.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from math import sqrt
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.optim import SGD, Optimizer
from torch.utils.hooks import RemovableHandle

from zo_triton import ops
from zo_triton._interrupts import held_back
from zo_triton.difference.exhaustion import explained
from zo_triton.directions import Directions
from zo_triton.ops import engines
from zo_triton.optim.checks import check_along_directions, check_coefficients, check_movable, check_remembered
from zo_triton.optim.descent import forgetting
from zo_triton.optim.estimate import fill_gradients, set_gradients
from zo_triton.optim.measure import Learned
from zo_triton.optim.shield import shielded
from zo_triton.optim.step_log import StepLog, written_down


class _Memories(NamedTuple):
    """What Adam or SGD remembers, as matrices over its memory.

    Attributes:
        first: First moments, or momentum buffers.
        second: Second moments; for SGD the same.
        steps: Adam's counters, [1, 1] each.
    """

    first: Sequence[np.ndarray]
    second: Sequence[np.ndarray]
    steps: Sequence[np.ndarray]


class GradientStep:
    """Moves parameters along an estimate by a torch optimizer, whose state is read and written in place.

    Args:
        params: The trained tensors in the order of their ids.
        optimizer: Holds them.
        directions: K, directions a step.
        seed: Key of the noise, in [0, 2**64).
        compute_dtype: Dtype whose rounding defines z.
        names: Of the parameters.
        distribution: Of the directions.
        perturb: What the steps perturb.

    Attributes:
        steps_done: Steps taken, the ``step`` of the directions drawn next.
        plan: How the latest general step was cut up, as JSON can hold it: what another one starts with.
        log: Gets each step's coefficients before the weights move; None if nothing does.
        last: What the latest measured step has learned.
        step_post_hooks: Called after each measured step; filled by :meth:`register_step_post_hook`.
    """

    def __init__(
        self,
        params: Sequence[Tensor],
        optimizer: Optimizer,
        directions: int,
        seed: int,
        compute_dtype: torch.dtype,
        names: Sequence[str],
        distribution: str = "rademacher",
        perturb: str = "weights",
    ) -> None:
        self.distribution, self.perturb = distribution, perturb
        self.params, self.optimizer, self.names = params, optimizer, names
        self.directions, self.seed, self.compute_dtype = directions, seed, compute_dtype
        self.steps_done = 0
        self.plan: dict[str, Any] | None = None
        self.log: StepLog | None = None
        self.last: Learned | None = None
        self.step_post_hooks: OrderedDict[int, Callable[..., object]] = OrderedDict()
        self._arrays_of = _Arrays(12 * len(params))
        self._scratch: list[dict[str, Any]] = [{} for _ in params]  # for SGD, which remembers nothing

    def register_step_post_hook(self, hook: Callable[..., object]) -> RemovableHandle:
        """Has ``hook(trainer, args, kwargs)`` called after each step, with what the step was called with.

        Unlike a hook of the torch optimizer it leaves the compiled calls as they are.

        Returns:
            A handle whose ``remove()`` ends that.
        """
        handle = RemovableHandle(self.step_post_hooks)
        self.step_post_hooks[handle.id] = hook
        return handle

    def __getstate__(self) -> dict[str, Any]:
        """For a copy, which leaves the hooks behind, as those of torch's optimizers do."""
        return {**self.__dict__, "step_post_hooks": OrderedDict()}

    def next_directions(self) -> Directions:
        """The directions that the next step walks."""
        directions = Directions(self.seed, self.steps_done, self.directions, self.distribution)
        return directions.over(param.shape for param in self.params)

    def apply(self, coefficients: Tensor, compiled: bool) -> None:
        """Moves the weights along the next directions: the second half of a step, which has no other effect.

        What happens depends on the weights, the optimizer, ``steps_done``, the settings and the arguments alone.

        Args:
            coefficients: a_k of ĝ = Σ_k a_k·z_k, [K] float32.
            compiled: In one compiled call, in which ĝ is never written out and for which the optimizer must be
                plain Adam or SGD (:mod:`.compilable`), rather than through ``.grad``; the two agree to rounding.

        Raises:
            TypeError: The coefficients are no float32 tensor.
            ValueError: There are not K of them, one is not finite, or activations are perturbed.
            OSError: The log can't be written; the step has not happened then.
        """
        with explained(), held_back(), torch.no_grad():
            directions = self.next_directions()
            check_along_directions(self.perturb)
            check_coefficients(coefficients, directions)
            self._apply(coefficients, compiled, directions)

    def _apply(self, coefficients: Tensor, compiled: bool, directions: Directions) -> None:
        """:meth:`apply` for coefficients that were just measured along ``directions``, the next ones."""
        if compiled:
            with shielded(self.params), forgetting(self.optimizer.state):
                memory = self._memories()
                with written_down(self.log, coefficients, compiled):
                    ops.mlp_update(self._arrays(), *self._rule(memory), coefficients.numpy(), directions)
                    self._count(memory)
            return
        # On one thread where the engine has its own: torch's others would spin on into the next step.
        one_thread = engines.whole_step(self.params[0].device)
        with shielded(self.params), self._whole(), one_thread, written_down(self.log, coefficients):
            fill_gradients(self.params, coefficients, directions, self.compute_dtype)
            self._move()
            self.steps_done += 1

    def _apply_gradients(self, gradients: Sequence[Tensor | None]) -> None:
        """The second half of a step that has its gradient written out."""
        with shielded(self.params), self._whole(), engines.whole_step(self.params[0].device):
            set_gradients(self.params, gradients)
            self._move()
            self.steps_done += 1

    def _move(self) -> None:
        """Torch's own step, inside the engine's."""
        on_all_threads = engines.wider(self.params[0].device)
        if on_all_threads is not None and engines.is_large(self.params):
            on_all_threads(self.optimizer.step)
        else:
            self.optimizer.step()

    @contextmanager
    def _whole(self) -> Iterator[None]:
        """Refuses what can't be moved, and forgets what the optimizer began to remember in a step that failed."""
        for param in self.params:
            check_movable(param, {})
        with forgetting(self.optimizer.state):
            yield

    def state_dict(self) -> dict[str, Any]:
        """What a run needs to go on beside the weights and the arguments, the optimizer's state included."""
        return {"steps_done": self.steps_done, "plan": self.plan, "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes over what :meth:`state_dict` of the same model and optimizer returned.

        Raises:
            TypeError: The saved count of steps is no integer.
            ValueError: It is no such state: nothing has changed.
        """
        missing = [name for name in ("steps_done", "plan", "optimizer") if name not in state_dict]
        if missing:
            raise ValueError(
                f"the state dict has no {', '.join(missing)}: it is not a trainer's; load one that its "
                "state_dict() returned, and what an optimizer has saved with trainer.optimizer.load_state_dict."
            )
        steps_done, plan = state_dict["steps_done"], state_dict["plan"]
        Directions(self.seed, steps_done, self.directions, self.distribution)  # which refuses a wrong count
        self.optimizer.load_state_dict(state_dict["optimizer"])
        self.steps_done, self.plan, self.last = steps_done, plan, None

    def _arrays(self) -> list[np.ndarray]:
        """The parameters as matrices over their own memory, as the compiled calls take them."""
        return self._arrays_of(self.params)

    def _memories(self) -> _Memories:
        """What the optimizer remembers, made where it is new."""
        group = self.optimizer.param_groups[0]
        if isinstance(self.optimizer, SGD):
            first = self._memory(self._states() if group["momentum"] else self._scratch, "momentum_buffer")
            return _Memories(first, first, [])
        states = self._states()
        for state in states:
            if "step" not in state:
                state["step"] = torch.zeros((), dtype=torch.float32, device="cpu")
        steps = self._arrays_of([state["step"] for state in states])
        return _Memories(self._memory(states, "exp_avg"), self._memory(states, "exp_avg_sq"), steps)

    def _rule(
        self, memory: _Memories
    ) -> tuple[Sequence[np.ndarray], Sequence[np.ndarray], tuple[float, ...]]:
        """The optimizer's memory and this step's numbers, as ``ops.mlp_update`` takes them."""
        group, first, second = self.optimizer.param_groups[0], memory.first, memory.second
        if isinstance(self.optimizer, SGD):
            return first, second, (group["lr"], group["momentum"], -1.0, 1.0, 0.0, group["weight_decay"])
        beta1, beta2 = group["betas"]
        taken = float(memory.steps[0][0, 0]) + 1
        lr = float(group["lr"]) / (1 - beta1**taken)
        return first, second, (lr, beta1, beta2, sqrt(1 - beta2**taken), group["eps"], group["weight_decay"])

    def _count(self, memory: _Memories) -> None:
        """Counts a compiled step."""
        for step in memory.steps:
            step[0, 0] += 1
        # By this torch's schedulers know that the optimizer has stepped.
        self.optimizer._opt_called = True  # type: ignore[attr-defined]
        self.steps_done += 1

    def _states(self) -> list[dict[str, Any]]:
        return [self.optimizer.state[param] for param in self.params]

    def _memory(self, states: Sequence[dict[str, Any]], key: str) -> list[np.ndarray]:
        for state, param in zip(states, self.params, strict=True):
            if state.get(key) is None:
                state[key] = torch.zeros_like(param, requires_grad=False)
            elif state[key].shape != param.shape:
                check_remembered(param, {key: state[key]})
        return self._arrays_of([state[key] for state in states])


class _Arrays:
    """Matrices over the memory of at most ``most`` tensors, kept: making them costs a tenth of a small step."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._kept: dict[int, tuple[Tensor, int, torch.Size, np.ndarray]] = {}

    def __call__(self, tensors: Sequence[Tensor]) -> list[np.ndarray]:
        """Each tensor as a matrix of its rows, [1, 1] for a scalar; a write to one is a write to the other."""
        arrays = []
        for tensor in tensors:
            kept = self._kept.get(id(tensor))
            if (
                kept is None
                or kept[0] is not tensor
                or kept[1] != tensor.data_ptr()
                or kept[2] != tensor.shape
            ):
                kept = self._keep(tensor)
            arrays.append(kept[3])
        return arrays

    def _keep(self, tensor: Tensor) -> tuple[Tensor, int, torch.Size, np.ndarray]:
        if len(self._kept) >= self._most:  # another state was loaded, again and again
            self._kept.clear()
        check_movable(tensor, {})
        columns = tensor.shape[-1] if tensor.dim() else 1
        array = tensor.detach().numpy().reshape(-1, columns)
        # The tensor is kept too: another could take its place in memory, and its id.
        kept = self._kept[id(tensor)] = (tensor, tensor.data_ptr(), tensor.shape, array)
        return kept
