"""Zeroth-order gradients for optimizers that read ``.grad``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from zo_triton import ops
from zo_triton._interrupts import check, held_back
from zo_triton.difference import Evaluation
from zo_triton.difference.arguments import check_apart, check_closure, check_parameters, parameter_list
from zo_triton.difference.exhaustion import explained
from zo_triton.difference.undo import taken_back
from zo_triton.directions import Directions
from zo_triton.optim.aggregators import Aggregator, get_aggregator
from zo_triton.optim.checks import check_movable, check_perturb, default_distribution, warn_of_frozen
from zo_triton.optim.measure import Measurement, measure
from zo_triton.optim.node_measure import measure_nodes, start_plan
from zo_triton.optim.shield import shielded


def estimate_gradient(
    closure: Callable[[], Any],
    params: Iterable[Tensor],
    directions: Directions | int = 64,
    eps: float = 1e-4,
    sides: int = 1,
    aggregator: str | Aggregator = "average",
    compute_dtype: torch.dtype = torch.float32,
    chunk: int | None = None,
    strict: bool = False,
    perturb: str = "weights",
    seed: int = 0,
    step: int | None = None,
) -> float:
    """Fills the ``.grad`` of each parameter with ĝ = Σ_k a_k·z_k, for any torch optimizer to use.

    ``.grad`` is set, not added to, and memory that is there is reused. Parameters with
    ``requires_grad=False`` get one as well: no autograd takes part.

    Each call must walk directions of its own, which (seed, step) names. Without a ``step`` calls that leave it out
    are counted, for each list's first tensor: 0, 1, 2, … in a training loop, and from 0 again for a new model. So
    a program that is run twice walks the same directions. The count lives as long as that tensor, a call that
    fails does not count, and no state dict holds it: a run that is to be resumed says ``step``, or takes
    :class:`zo_triton.ZOAdam`, whose state holds its own.

    Args:
        closure: Takes nothing, returns the loss as a scalar tensor; or a :class:`zo_triton.optim.BlackBox`.
        params: The trained tensors; a tensor's position is its id in the field.
        directions: K, drawn from (seed, step): rademacher for weights, hadamard for activations. Or a value that
            names them.
        eps: Smoothing radius ε.
        sides: 1 for L(θ+εz) - L(θ), 2 for central differences.
        aggregator: average, normalized, ranked, best, align, or a function as for :class:`zo_triton.ZOSGD`.
        compute_dtype: Dtype of the differences, float32 or bfloat16.
        chunk: Directions evaluated at once; None chooses.
        strict: Refuse functions without an exact difference rule.
        perturb: "weights"; "activations": signs on the outputs of linear layers and convolutions, each sample with
            its own and measured by its own loss, other parameters themselves; "auto": each layer where it costs
            less.
            The closure then returns the samples' losses [N] (``reduction="none"``), tokens' [N, T], or ends in
            cross_entropy, another loss of torch's, ``.mean()`` or ``.sum()``; directions are ``hadamard`` best, and
            inputs of trained layers are kept until the gradient is formed.
        seed: Key of the noise, in [0, 2**64), where ``directions`` is a number.
        step: Which of the seed's steps this is, where ``directions`` is a number; None counts.

    Returns:
        The base loss.

    Raises:
        TypeError: A parameter is not of a real floating type, or the closure returned no number.
        NonFiniteLossError: The loss, or every difference of it, is not finite; ``.grad`` is as it was.
        ValueError: A setting is out of range, the loss is no scalar, or activations can't be perturbed; ``.grad``
            is as it was.

    Warns:
        UserWarning: Some of the tensors have ``requires_grad=False`` and others do not; once.

    Example:
        >>> import torch, zo_triton as zo
        >>> w = torch.tensor([1.0, -2.0], requires_grad=True)
        >>> adam = torch.optim.Adam([w], lr=0.1)
        >>> loss = zo.estimate_gradient(lambda: w.square().sum(), [w])
        >>> adam.step()
    """
    check_closure(closure)
    params = parameter_list(params)
    evaluation = Evaluation(eps, sides, compute_dtype, chunk, strict)
    counted = step is None and not isinstance(directions, Directions)
    directions = _named(directions, seed, step, perturb, params)
    check_parameters(params, directions)
    check_apart(params)
    get_aggregator(aggregator)
    check_perturb(perturb, directions.distribution, directions.rank, aggregator)
    warn_of_frozen(params)
    with explained(), held_back(), torch.no_grad(), taken_back():
        if perturb == "weights":
            measurement = measure(closure, params, directions, evaluation)
            check()
            with shielded(params):
                write_gradients(params, measurement, aggregator)
            loss = measurement.loss
        else:
            loss = _estimate_on_nodes(closure, params, directions, evaluation, perturb)
        if counted:
            _calls[params[0]] = directions.step + 1
    return loss


def _named(
    directions: Directions | int, seed: int, step: int | None, perturb: str, params: Sequence[Any]
) -> Directions:
    """The directions that the arguments of :func:`estimate_gradient` name."""
    if not isinstance(directions, Directions):
        if step is None:
            step = _calls.get(params[0], 0) if params and isinstance(params[0], Tensor) else 0
        return Directions(seed, step, directions, default_distribution(perturb))
    if seed != 0 or step is not None:
        raise ValueError(
            f"{directions} names its seed and step, got seed={seed}, step={step} as well; say them in one place: "
            f"directions={directions.num}, or zo.Directions({seed}, {step}, {directions.num})."
        )
    return directions


def _estimate_on_nodes(
    closure: Callable[[], Any],
    params: Sequence[Tensor],
    directions: Directions,
    evaluation: Evaluation,
    perturb: str,
) -> float:
    key = (*map(id, params), perturb, directions.num)
    known, plan = _plans.get(params[0], (None, None))
    if plan is None or known != key:
        plan = start_plan(perturb, directions.num)
    measured = measure_nodes(closure, params, directions, evaluation, plan)
    check()
    with shielded(params):
        set_gradients(params, measured.gradients)
    _plans[params[0]] = key, measured.plan
    return measured.loss


@torch.no_grad()
def write_gradients(params: Sequence[Tensor], measurement: Measurement, aggregator: str | Aggregator) -> None:
    """Sets the ``.grad`` of each parameter to the estimate ĝ that a measurement gives."""
    coefficients = measurement.coefficients(params, aggregator)
    fill_gradients(params, coefficients, measurement.directions, measurement.compute_dtype)


@torch.no_grad()
def fill_gradients(
    params: Sequence[Tensor], coefficients: Tensor, directions: Directions, compute_dtype: torch.dtype
) -> None:
    """Sets the ``.grad`` of each parameter to Σ_k a_k·z_k, for Rademacher signs the same bits on every engine.

    Args:
        params: The trained tensors in the order of their ids.
        coefficients: a_k, [K] float32, scales included.
        directions: Names the K directions.
        compute_dtype: Dtype whose rounding defines z.
    """
    directions = directions.over(param.shape for param in params)
    for param in params:
        if param.grad is not None:
            check_movable(param.grad, {})
    gradients = [_gradient_memory(param) for param in params]
    torch._foreach_zero_(gradients)
    ops.accumulate_on_grid(gradients, range(len(params)), coefficients, directions, compute_dtype)
    for param, gradient in zip(params, gradients, strict=True):
        if param.grad is None:
            param.grad = gradient.to(param.dtype)
        elif param.grad is not gradient:
            param.grad.copy_(gradient)


_calls: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
"""How many estimates that named no step there were for lists that begin with this tensor."""

_plans: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
"""The latest plan over these parameters, and what it is for; each run is known by the functions that it calls."""


@torch.no_grad()
def set_gradients(params: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> None:
    """Sets the ``.grad`` of each parameter; zero where there is none."""
    for param, gradient in zip(params, gradients, strict=True):
        if param.grad is None:
            param.grad = torch.zeros_like(param) if gradient is None else _ordinary(gradient.to(param.dtype))
        elif gradient is None:
            param.grad.zero_()
        else:
            param.grad.copy_(gradient)


def _ordinary(tensor: Tensor) -> Tensor:
    """The tensor; a copy of one that was made in inference mode, which nobody could write to later."""
    return tensor.clone() if tensor.is_inference() else tensor


def _gradient_memory(param: Tensor) -> Tensor:
    """The present ``.grad`` if a sum can be formed in it, else a new tensor, float32 for low precision."""
    if param.dtype not in (torch.float32, torch.float64):
        return torch.empty_like(param, dtype=torch.float32)
    grad = param.grad
    if grad is not None and grad.dtype == param.dtype:
        return grad
    return torch.empty_like(param)
