"""The public entry: validate, cut the directions into chunks, run the closure once a chunk."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from zo_triton import ops
from zo_triton.difference.errors import NotATensorError
from zo_triton.difference.mode import DifferenceMode
from zo_triton.difference.plan import Plan, RestartError
from zo_triton.difference.random_state import RandomState
from zo_triton.directions import Directions

BUDGET_CPU = 16 * 2**20
"""Bytes that one tensor of differences may take on a CPU before the directions are cut into chunks."""

BUDGET_GPU = 2**30
"""The same on a GPU."""

SMALLEST_EPS = 1e-30
"""Below it, ε times a small activation leaves the normal range of float32."""


class Measurement(NamedTuple):
    """What :func:`measure` returns.

    Attributes:
        value: The closure's base value, [*shape].
        differences: [K, *shape] or [K, 2, *shape], float32.
        plan: How the run was cut up at last; pass it to the next :func:`measure` of the same closure.
    """

    value: Tensor
    differences: Tensor
    plan: Plan


def differences(
    closure: Callable[[], Tensor],
    params: Iterable[Tensor],
    directions: Directions,
    eps: float,
    sides: int = 1,
    compute_dtype: torch.dtype = torch.float32,
    chunk: int | None = None,
    strict: bool = False,
    scales: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Base value of a closure and its exact difference along each direction, without subtracting two values.

    The closure runs once (once a chunk of directions, with torch's random state put back, so that each run
    draws the same dropout masks) under ``torch.no_grad()``. Inside it tensors, ``.item()`` and control flow
    are those of the base. Nothing is modified.

    Args:
        closure: Takes no argument, returns a tensor of any shape: a loss, per-sample losses, logits.
        params: The trained parameters; position i in this list is tensor id i of the perturbation field.
        directions: Names the K directions.
        eps: Smoothing radius ε > 0.
        sides: 1 for L(θ+εz) − L(θ); 2 for that and L(θ−εz) − L(θ).
        compute_dtype: Of the activations' differences: float32, or bfloat16 for speed. Losses stay float32.
        chunk: Directions evaluated at once; None for as many as the memory budget allows. Beyond
            float32 rounding no value depends on it.
        strict: Refuse a torch function without a difference rule instead of subtracting its values.
        scales: [K] float32 factor on ε for each direction; None for the distribution's own (``sphere``) or 1.

    Returns:
        The value, [*shape], and the differences, float32: [K, *shape], with ``sides=2`` [K, 2, *shape], plus
        side first.

    Raises:
        TypeError: A parameter is no floating-point tensor, ``directions`` is no :class:`Directions`, or the
            closure returns something else than a tensor (:class:`NotATensorError`, which holds it).
        ValueError: Anything else that is out of range, a closure whose value depends on no parameter, or an
            in-place function that differences can't follow.
    """
    value, found, _ = measure(closure, params, directions, eps, sides, compute_dtype, chunk, strict, scales)
    return value, found


def measure(
    closure: Callable[[], Tensor],
    params: Iterable[Tensor],
    directions: Directions,
    eps: float,
    sides: int = 1,
    compute_dtype: torch.dtype = torch.float32,
    chunk: int | None = None,
    strict: bool = False,
    scales: Tensor | None = None,
    plan: Plan | None = None,
) -> Measurement:
    """:func:`differences` for a caller that measures the same closure again and again.

    Args are those of :func:`differences`, and ``plan``: the plan of the last measurement, which saves this
    one from starting twice.
    """
    params = list(params)
    _check_params(params, directions)
    _check_settings(directions, eps, sides, compute_dtype, chunk, scales)
    device = params[0].device
    if scales is None:
        scales = ops.direction_scales(params, range(len(params)), directions, compute_dtype)
    signed_eps = _signed_eps(directions.num, sides, eps, scales, device)
    if plan is None:
        plan = Plan(directions.num)
    if chunk is not None:
        plan = replace(plan, chunk=min(chunk, directions.num), fixed=True)
    budget = BUDGET_CPU if device.type == "cpu" else BUDGET_GPU
    start, first, again, value = RandomState.capture(device), 0, False, None
    parts: list[Tensor] = []
    with torch.no_grad(), ops.whole_step(device):
        while first < directions.num:
            if again:
                start.restore()
            again = True
            some = directions if plan.chunk >= directions.num else directions[first : first + plan.chunk]
            steps = signed_eps[first * sides : (first + some.num) * sides]
            mode = DifferenceMode(params, some, steps, compute_dtype, plan, budget, strict)
            try:
                base, part = _run_once(closure, mode)
            except RestartError as restart:
                plan = restart.plan
                continue
            finally:
                mode.close()
            value = base if value is None else _check_same(value, base)
            parts.append(part)
            first += some.num
    assert value is not None
    found = parts[0] if len(parts) == 1 else torch.cat(parts)
    return Measurement(value, found.view(directions.num, *(() if sides == 1 else (2,)), *value.shape), plan)


def _run_once(closure: Callable[[], Any], mode: DifferenceMode) -> tuple[Tensor, Tensor]:
    """Base value and differences [P, *shape] float32 of one chunk."""
    with mode:
        value = closure()
    if not isinstance(value, Tensor):
        raise NotATensorError(value)
    difference = mode.difference(value)
    if difference is None:
        if not mode.used:
            raise ValueError(
                f"the closure used none of the {len(mode.params)} trained parameters; pass the parameters of "
                "the model that it runs."
            )
        raise ValueError(
            "the closure's value carries no difference: the trained parameters reach it only through "
            "comparisons, argmax, integers or Python numbers; return a loss that depends on them through "
            "torch functions, or wrap the closure in zo.BlackBox to evaluate it direction by direction."
        )
    return value.detach(), difference.float()


def _check_same(first: Tensor, again: Tensor) -> Tensor:
    """Refuses a closure that returns another value on the next chunk of directions."""
    if first.shape != again.shape or not torch.allclose(first, again, 1e-3, 1e-5, equal_nan=True):
        raise ValueError(
            f"the closure's value changed from {first} to {again} between two chunks of one step; it must "
            "use the same batch each time: draw the batch outside of it."
        )
    return first


def _signed_eps(num: int, sides: int, eps: float, scales: Tensor | None, device: torch.device) -> Tensor:
    """sε·scale of each evaluation, [K·sides] float32; the plus side stands first."""
    steps = _unscaled_eps(num, sides, float(eps), device)
    return steps if scales is None else steps * scales.to(device, torch.float32).repeat_interleave(sides)


@lru_cache(maxsize=8)
def _unscaled_eps(num: int, sides: int, eps: float, device: torch.device) -> Tensor:
    return torch.tensor([eps, -eps][:sides], dtype=torch.float32, device=device).repeat(num)


def _check_params(params: list[Tensor], directions: Directions) -> None:
    if not isinstance(directions, Directions):
        raise TypeError(
            f"directions must be a zo.Directions, got {directions!r} of type {type(directions).__name__}."
        )
    if not params:
        raise ValueError("params is empty; pass at least one trained parameter.")
    seen: dict[int, int] = {}
    for position, parameter in enumerate(params):
        name = f"parameter {position}"
        if not isinstance(parameter, Tensor):
            raise TypeError(f"{name} is no tensor but {parameter!r} of type {type(parameter).__name__}.")
        if not parameter.is_floating_point():
            raise TypeError(
                f"{name} has dtype {parameter.dtype}; only floating-point parameters can be perturbed."
            )
        if id(parameter) in seen:
            raise ValueError(
                f"{name} is the same tensor as parameter {seen[id(parameter)]}; list each one once."
            )
        if parameter.device != params[0].device:
            raise ValueError(
                f"{name} is on {parameter.device} but parameter 0 on {params[0].device}; move all to one "
                "device."
            )
        seen[id(parameter)] = position
    _check_shapes(directions.distribution, directions.rank, tuple(parameter.shape for parameter in params))


@lru_cache(maxsize=64)
def _check_shapes(distribution: str, rank: int | None, shapes: tuple[torch.Size, ...]) -> None:
    """Refuses shapes that the field can't address; remembered, since steps of small models are short."""
    field = Directions(0, 0, 1, distribution, rank=rank)
    for position, shape in enumerate(shapes):
        field.check_shape(f"parameter {position}", shape)


def _check_settings(
    directions: Directions,
    eps: float,
    sides: int,
    compute_dtype: torch.dtype,
    chunk: int | None,
    scales: Tensor | None,
) -> None:
    if isinstance(eps, bool) or not isinstance(eps, (int, float)):
        raise TypeError(f"eps must be a number, got {eps!r} of type {type(eps).__name__}.")
    if not (math.isfinite(eps) and eps > 0):
        raise ValueError(f"eps must be positive and finite, got {eps}.")
    if not SMALLEST_EPS <= eps <= 1 / SMALLEST_EPS:
        raise ValueError(
            f"eps {eps} is too {'small' if eps < 1 else 'large'} for float32; use one between "
            f"{SMALLEST_EPS} and {1 / SMALLEST_EPS}."
        )
    if sides not in (1, 2):
        raise ValueError(f"sides must be 1 (forward difference) or 2 (central difference), got {sides!r}.")
    if compute_dtype not in (torch.float32, torch.bfloat16):
        raise ValueError(f"compute_dtype must be torch.float32 or torch.bfloat16, got {compute_dtype}.")
    if chunk is not None and (isinstance(chunk, bool) or not isinstance(chunk, int) or chunk < 1):
        raise ValueError(f"chunk must be at least 1, or None for as many directions as fit, got {chunk!r}.")
    if scales is not None and tuple(scales.shape) != (directions.num,):
        raise ValueError(
            f"scales must have shape ({directions.num},), one a direction, got {tuple(scales.shape)}."
        )
