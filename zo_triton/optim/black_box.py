"""Losses that difference propagation can't see into, evaluated on perturbed weights one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from zo_triton import ops
from zo_triton._interrupts import listening
from zo_triton._warn import warn
from zo_triton.difference import Evaluation
from zo_triton.difference.plan import Accept
from zo_triton.difference.random_state import RandomState
from zo_triton.difference.undo import on_failure
from zo_triton.directions import Directions

_FULL = (torch.float32, torch.float64)


class BlackBox:
    """Marks a closure whose loss must be evaluated on weights that have really moved.

    Needed where the loss is a plain number (a simulator, a metric, a served model) or comes out of code that
    torch functions do not see. Each evaluation writes W + sεz into the live parameters and calls the closure
    under ``no_grad``, with torch's random state put back first, so that all see the same dropout masks. Then
    the weights are copied back from a saved copy: they are bit for bit what they were, whatever the closure
    raises. The random state is left as one single run leaves it, or as it was if one fails.

    Two limits: a difference of two float32 losses loses digits as ε shrinks, so prefer ε near 1e-3; and state
    that the closure itself changes (BatchNorm's running statistics) changes at every evaluation.

    Args:
        closure: Takes nothing, returns a number or a scalar tensor. Ranks that share out the batch call it with
            their ``take``.

    Raises:
        TypeError: ``closure`` can't be called.

    Example:
        >>> from zo_triton.optim import BlackBox
        >>> BlackBox(lambda: 0.5)()
        0.5
    """

    def __init__(self, closure: Callable[..., Any]) -> None:
        if not callable(closure):
            raise TypeError(f"BlackBox takes a closure, got {closure!r} of type {type(closure).__name__}.")
        self.closure = closure

    def __call__(self) -> Any:
        """Evaluates the closure once."""
        return self.closure()


def black_box_differences(
    closure: Callable[[], Any],
    params: Sequence[Tensor],
    directions: Directions,
    evaluation: Evaluation,
    scales: Tensor | None = None,
    accept: Accept | None = None,
) -> tuple[Tensor, Tensor]:
    """Loss differences by moving the live weights, one evaluation after the other.

    Args:
        closure: Takes nothing, returns a number or a tensor with one element.
        params: The trained tensors in the order of their ids; they end as they began.
        directions: Names the K directions.
        evaluation: ε, the sides, and the dtype whose rounding defines z; the others say nothing here.
        scales: [K] float32 factors on ε, or None where they are 1.
        accept: Gets what is returned, and raises if it is no good: then the random state is as before.

    Returns:
        The base loss [] float64, and the differences, float32 [K] or [K, 2], plus side first.

    Raises:
        TypeError: The closure returned neither a number nor a tensor.
        ValueError: It returned a tensor of several elements.
    """
    device = params[0].device
    walked = [(k, step) for k in range(directions.num) for step in evaluation.steps]
    losses = []
    factors = [1.0] * directions.num if scales is None else scales.tolist()
    before = after = RandomState.capture(device)
    with torch.no_grad():
        try:
            base = _number(listening(closure))
            drawn = RandomState.capture(device)
            with _restored(params) as saved:
                for index, (k, step) in enumerate(walked):
                    _move(params, saved, step * factors[k], directions[k : k + 1], evaluation.compute_dtype)
                    if index == 0:
                        _warn_if_swallowed(params, saved, evaluation.eps)
                    before.restore()
                    losses.append(_number(listening(closure)))
            value = torch.tensor(base, dtype=torch.float64, device="cpu")
            differences = torch.tensor(losses, dtype=torch.float64, device="cpu") - value
            shape = (directions.num,) if evaluation.sides == 1 else (directions.num, 2)
            differences = differences.float().view(shape).to(device)
            if accept is not None:
                accept(value, differences, False)
            after = drawn
            on_failure(before.restore)
        finally:
            after.restore()
    return value, differences


@contextmanager
def _restored(params: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Gives copies of the tensors and copies them back at the end, which no rounding can spoil."""
    tensors = [param.detach() for param in params]
    saved = [tensor.clone() for tensor in tensors]
    try:
        yield saved
    finally:
        # One call for all of them: an interrupt can't fall between two tensors.
        with torch.no_grad():
            torch._foreach_copy_(tensors, saved)


def _move(
    params: Sequence[Tensor],
    saved: Sequence[Tensor],
    signed_eps: float,
    direction: Directions,
    compute_dtype: torch.dtype,
) -> None:
    """Writes saved + signed_eps·z into the parameters; low-precision ones are rounded once, at the end."""
    torch._foreach_copy_(list(params), list(saved))
    moved = [param if param.dtype in _FULL else param.float() for param in params]
    step = torch.tensor([signed_eps], dtype=torch.float32, device=params[0].device)
    ops.accumulate(moved, range(len(moved)), step, direction, compute_dtype)
    for param, tensor in zip(params, moved, strict=True):
        if param is not tensor:
            param.copy_(tensor)


def _warn_if_swallowed(params: Sequence[Tensor], saved: Sequence[Tensor], eps: float) -> None:
    low = [(param, old) for param, old in zip(params, saved, strict=True) if param.dtype not in _FULL]
    total = sum(param.numel() for param, _ in low)
    still = sum(int((param == old).sum()) for param, old in low)
    if 2 * still > total:
        warn(
            f"eps={eps} is below the spacing of {low[0][0].dtype}: {still} of {total} weights did not "
            "move, so the differences say little; raise eps, keep the weights in float32, or let the closure "
            "return a tensor.",
            RuntimeWarning,
        )


def _number(value: object) -> float:
    if isinstance(value, Tensor):
        if value.numel() != 1:
            raise ValueError(
                f"the loss must be a scalar, got a tensor of shape {tuple(value.shape)}; reduce it, for "
                "example with .mean()."
            )
        return float(value)
    if not isinstance(value, Real):
        raise TypeError(
            f"the closure must return the loss, a scalar tensor or a number, got {value!r} of type "
            f"{type(value).__name__}; is a `return` missing?"
        )
    return float(value)
