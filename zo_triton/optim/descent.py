"""What a step does to the weights, given the estimate ĝ of the gradient: the rule of SGD along it.

A function of the weights, the state, the settings and the estimate, and of nothing else. Each operation rounds once
(a product and a sum are never fused), and signs are summed without rounding, so that for ĝ = Σ_k a_k·z_k with signs
every engine and device writes the same bits.
"""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from zo_triton import ops
from zo_triton.directions import Directions
from zo_triton.optim.checks import check_movable
from zo_triton.optim.scratch import Scratch
from zo_triton.optim.stochastic import descend_stochastically

FULL_PRECISION = (torch.float32, torch.float64)
"""Dtypes of weights that are updated where they are; others have a float32 master copy."""

State = MutableMapping[Tensor, dict[str, Any]]


class Estimate(Protocol):
    """An estimate ĝ of the gradient, of all parameters by their ids."""

    def add_to(
        self, tensors: Sequence[Tensor], ids: Sequence[int], scratch: Scratch, factor: float | Tensor = 1.0
    ) -> None:
        """``tensor += factor·ĝ`` in place for the parameters of these ids; float32 or float64 tensors.

        What lies in ``scratch`` may be overwritten.
        """
        ...

    def negated(self) -> Estimate:
        """-ĝ, for a loss that is to grow."""
        ...

    def written_out(self, params: Sequence[Tensor]) -> list[Tensor]:
        """ĝ as tensors that nobody else holds, float32 for parameters of low precision, all parameters in order."""
        ...


class AlongDirections(NamedTuple):
    """ĝ = Σ_k a_k·z_k, never written out.

    Attributes:
        coefficients: a_k, [K] float32, scales included.
        directions: Names the K directions.
        compute_dtype: Dtype whose rounding defines z.
    """

    coefficients: Tensor
    directions: Directions
    compute_dtype: torch.dtype

    def add_to(
        self, tensors: Sequence[Tensor], ids: Sequence[int], scratch: Scratch, factor: float | Tensor = 1.0
    ) -> None:
        """All K directions in one pass over the tensors."""
        scaled = (
            self.coefficients if isinstance(factor, float) and factor == 1.0 else self.coefficients * factor
        )
        ops.accumulate_on_grid(tensors, ids, scaled, self.directions, self.compute_dtype)

    def negated(self) -> AlongDirections:
        """With -a_k: as exact as ĝ."""
        return self._replace(coefficients=-self.coefficients)

    def written_out(self, params: Sequence[Tensor]) -> list[Tensor]:
        """All K directions summed up in new tensors."""
        gradients = [
            torch.zeros_like(param, dtype=full_precision(param), requires_grad=False) for param in params
        ]
        self.add_to(gradients, range(len(gradients)), Scratch([]))
        return gradients


class WrittenOut(NamedTuple):
    """ĝ as tensors.

    Attributes:
        gradients: Of each parameter; None is zero.
    """

    gradients: Sequence[Tensor | None]

    def add_to(
        self, tensors: Sequence[Tensor], ids: Sequence[int], scratch: Scratch, factor: float | Tensor = 1.0
    ) -> None:
        """A product and a sum a tensor."""
        for tensor, tensor_id in zip(tensors, ids, strict=True):
            gradient = self.gradients[tensor_id]
            if gradient is not None:
                tensor.add_(scratch.product(gradient, factor))

    def negated(self) -> WrittenOut:
        """New tensors."""
        return WrittenOut([None if each is None else -each for each in self.gradients])

    def written_out(self, params: Sequence[Tensor]) -> list[Tensor]:
        """Copies, with zeros where there is none."""
        written = [
            torch.zeros_like(param, dtype=full_precision(param), requires_grad=False) for param in params
        ]
        for mine, gradient in zip(written, self.gradients, strict=True):
            if gradient is not None:
                mine.copy_(gradient)
        return written


def descend(
    params: Sequence[Tensor],
    first_id: int,
    state: State,
    lr: float | Tensor,
    momentum: float,
    weight_decay: float,
    estimate: Estimate,
    scratch: Scratch,
    words: Directions | None = None,
) -> None:
    """Moves one group's weights; a learning rate of 0 that is known to be one leaves every bit of them.

    Args:
        params: The group's tensors, changed in place.
        first_id: Of the first of them in the field.
        state: The optimizer's; gets what a parameter needs when it is first needed.
        lr: η; a 0-dim float32 tensor is read when the kernels run.
        momentum: μ.
        weight_decay: λ.
        estimate: ĝ.
        scratch: :func:`make_state`'s.
        words: Names the random words by which float16 and bfloat16 weights are rounded that have no master copy;
            None where they have one.
    """
    moves = isinstance(lr, Tensor) or lr != 0
    numbered = list(enumerate(params, first_id))
    if words is not None:
        for tensor_id, param in numbered:
            if param.dtype not in FULL_PRECISION:
                state.get(param, {}).pop("master", None)
                buffer = _buffer(param, state) if momentum else None
                descend_stochastically(
                    param, tensor_id, buffer, estimate.add_to, words, lr, momentum, weight_decay, scratch
                )
        numbered = [(tensor_id, param) for tensor_id, param in numbered if param.dtype in FULL_PRECISION]
    if not numbered:
        return
    ids, params = zip(*numbered, strict=True)
    weights = [up_to_date(param, state) for param in params]
    if momentum:
        buffers = [_buffer(param, state) for param in params]
        torch._foreach_mul_(buffers, momentum)
        if weight_decay:
            for buffer, weight in zip(buffers, weights, strict=True):
                buffer.add_(scratch.product(weight, weight_decay))
        estimate.add_to(buffers, ids, scratch)
        if moves:
            for weight, buffer in zip(weights, buffers, strict=True):
                weight.sub_(scratch.product(buffer, lr))
    elif moves:
        if weight_decay:
            torch._foreach_mul_(weights, 1.0 - lr * weight_decay)
        estimate.add_to(weights, ids, scratch, -lr)
    if moves:
        for param, weight in zip(params, weights, strict=True):
            if param is not weight:
                param.copy_(weight)


def make_state(
    groups: Sequence[dict[str, Any]], state: State, estimate: Estimate, stochastic: bool
) -> Scratch:
    """Makes what a step will keep or need before anything moves, so that running out of memory here moves nothing.

    Args:
        groups: The optimizer's.
        state: Its state, to which is added; see :func:`forgetting`.
        estimate: Along which it will move.
        stochastic: Whether low-precision weights are rounded stochastically.

    Returns:
        Memory for :func:`descend`.

    Raises:
        ValueError: A parameter can't be written to, or what is remembered of it has another shape.
    """
    params = [param for group in groups for param in group["params"]]
    for group in groups:
        for param in group["params"]:
            if group["momentum"]:
                _buffer(param, state)
            if not stochastic:
                in_full_precision(param, state)
            check_movable(param, state.get(param, {}))
    in_place = isinstance(estimate, AlongDirections) and not any(group["momentum"] for group in groups)
    return Scratch(params, 2) if stochastic else Scratch([] if in_place else params)


class forgetting:  # noqa: N801 (used like a function)
    """What an optimizer has begun to remember in a block that raises, it forgets again.

    Args:
        state: Its state.
    """

    def __init__(self, state: State) -> None:
        self._state, self._before = state, {param: dict(own) for param, own in state.items()}

    def __enter__(self) -> None:
        """Nothing: what is remembered was noted before."""

    def __exit__(self, kind: type[BaseException] | None, *error: Any) -> None:
        if kind is not None:
            self._state.clear()
            self._state.update(self._before)


def full_precision(param: Tensor) -> torch.dtype:
    """The dtype in which what belongs to a parameter is kept."""
    return param.dtype if param.dtype in FULL_PRECISION else torch.float32


def in_full_precision(param: Tensor, state: State) -> Tensor:
    """The parameter itself, or the float32 copy that a low-precision one is the rounding of."""
    if param.dtype in FULL_PRECISION:
        return param
    own = state[param]
    if "master" not in own:
        own["master"] = param.detach().float()
    return own["master"]


def up_to_date(param: Tensor, state: State) -> Tensor:
    """The same, with what was written from outside taken over; the device is not asked whether anything was."""
    weight = in_full_precision(param, state)
    if weight is not param:
        torch.where(weight.to(param.dtype) == param, weight, param.float(), out=weight)
    return weight


def _buffer(param: Tensor, state: State) -> Tensor:
    own = state[param]
    if "momentum_buffer" not in own:
        own["momentum_buffer"] = torch.zeros_like(param, dtype=full_precision(param), requires_grad=False)
    return own["momentum_buffer"]
