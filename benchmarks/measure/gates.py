"""Correctness gates: no speed is reported of a step or an op that computes the wrong thing."""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt
from typing import Any

import torch
import torch.nn.functional as F

import zo_triton as zo
from benchmarks.contenders.contender import Build, Setting
from benchmarks.measure.accuracy import direct_differences
from benchmarks.measure.step_time import StepCase, example
from zo_triton import nzk

BOUNDS = {torch.float32: 1e-4, torch.bfloat16: 2e-2}
"""Largest median relative error of a loss difference."""


KERNELS = (("update", "shared"), ("nzk", "shared"), ("nzk", "independent"))
"""Of ordinary ZO-SGD, and the NZK with shared and with independent vectors."""


class GateError(RuntimeError):
    """A contender or an op failed its gate."""


def check_descent(name: str, build: Build, case: StepCase, lr: float) -> None:
    """One step must descend as far along the true gradient as its method promises.

    A zeroth-order SGD step moves by -lr/K Σ (g·z_k) z_k, so its projection -Δθ·g/(lr |g|²) is the mean of K
    squares with expectation 1 and standard deviation √(2/K) (Gaussian; signs have less). Backprop gives 1. A
    missing 1/ε, a replay of other noise or a wrong sign leave that interval.

    Args:
        name: For the message.
        build: Makes an SGD contender.
        case: Network, batch and K.
        lr: The learning rate it gets.

    Raises:
        GateError: The projection is more than four standard deviations away from 1, or not positive.
    """
    model, x, y = example(case)
    F.cross_entropy(model(x), y).backward()
    before = [parameter.detach().clone() for parameter in model.parameters()]
    gradient = [parameter.grad.double() for parameter in model.parameters() if parameter.grad is not None]
    model.zero_grad()
    contender = build(model, Setting(lr, 0, case.directions))
    contender.step(x, y)
    contender.write_weights()
    walked = sum(
        ((old.double() - new.detach().double()) * slope).sum().item()
        for old, new, slope in zip(before, model.parameters(), gradient, strict=True)
    )
    projection = walked / (lr * sum(slope.square().sum().item() for slope in gradient))
    if not projection > 0 or abs(projection - 1) > 4 * sqrt(2 / case.directions):
        raise GateError(
            f"{name} on {case.name} moves {projection:.3g} times the expected distance along the gradient."
        )


def check_differences(case: StepCase, dtype: torch.dtype, eps: float = 1e-3, count: int = 4) -> float:
    """Propagated differences must agree with float64 finite differences.

    Returns:
        The median relative error over ``count`` directions.

    Raises:
        GateError: It exceeds the dtype's bound.
    """
    model, x, y = example(case)
    params = list(model.parameters())
    directions = zo.Directions(1, 0, count)
    noise = [zo.sample(directions, number, param.shape) for number, param in enumerate(params)]
    truth = direct_differences(model, x, y, noise, eps, torch.float64)
    _, change = zo.differences(
        lambda: F.cross_entropy(model(x), y), params, directions, eps, compute_dtype=dtype
    )
    error = ((change.double() - truth) / truth).abs().median().item()
    if not error <= BOUNDS[dtype]:
        raise GateError(
            f"loss differences in {dtype} on {case.name} are off by {error:.2g}, more than {BOUNDS[dtype]}."
        )
    return error


WALKS = [(kernel, coupling, count) for kernel, coupling in KERNELS for count in (1, 8)]


def check_walks(steps: int, device: torch.device | str = "cpu") -> list[dict[str, Any]]:
    """Training through the fused kernels must follow the theory's recursion, step by step.

    A linear model under squared loss is walked by every kernel of :data:`KERNELS`, one direction and eight at
    a time; float64 algebra on the same directions says where it must be after each step.

    Args:
        steps: Of each walk.
        device: Where the model lives; decides the engine.

    Returns:
        One row a walk, as a record's section ``gate`` holds them.

    Raises:
        GateError: A walk left its recursion.
    """
    rows = []
    for kernel, coupling, count in WALKS:
        found = nzk.check(steps, count, kernel, coupling, device=device)
        name = "update" if kernel == "update" else f"NZK, {coupling} vectors"
        if not found.passed:
            raise GateError(f"the walk with K = {count} ({name}) leaves the kernel recursion: {found}.")
        rows.append(
            {
                "kernel": name,
                "directions": count,
                "steps": steps,
                "worst": float(f"{found.worst:.2g}"),
                "allowed": found.tolerance,
            }
        )
    return rows


def run_gate(steps: int, say: Callable[[str], None]) -> dict[str, Any]:
    """The record's section ``gate``.

    Raises:
        GateError: As :func:`check_walks`.
    """
    say("gate: the fused kernels against the kernel recursion")
    note = (
        "Nothing here was timed before this passed: a linear model under squared loss, trained through the fused "
        "kernels (float32, signs), against the realised-kernel recursion of the NZK theory in float64 "
        "(arXiv 2603.21169). The error is the largest over all steps, relative to the outputs."
    )
    return {"note": note, "rows": check_walks(steps)}
