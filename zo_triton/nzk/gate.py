"""The gate: what the fused kernels did, against what the theory says they must have done.

* :func:`check`: a linear model trained step by step through the kernels equals the float64 recursion with the
  kernels that were realised. No speed is worth reporting where this fails.
* :func:`check_mean`: the mean of many such runs equals the closed form, and their mean loss the predicted one.
* :class:`zo_triton.nzk.StepCheck`: the same question about any single step of any training run on any torch model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from zo_triton.directions import seed_after
from zo_triton.nzk.arrays import as_matrix, as_vector, check_count
from zo_triton.nzk.evolution import check_steps, evolve
from zo_triton.nzk.expectation import expected
from zo_triton.nzk.function_space import recursion
from zo_triton.nzk.second_moment import spread
from zo_triton.nzk.stability import max_stable_lr
from zo_triton.nzk.tangent_kernel import linearize
from zo_triton.nzk.walk import KernelWalk

SAMPLES, INPUTS, OUTPUTS = 24, 13, 2
"""The built-in problem: 48 outputs of an affine map with 28 weights in two tensors, noisy targets."""

SHARE_OF_LIMIT = 0.5
"""The learning rate of a check, as a share of the largest stable one."""


@dataclass(frozen=True, eq=False)
class CheckResult:
    """What :func:`check` found.

    Attributes:
        passed: Whether every step's error is within the tolerance.
        worst: The largest error.
        step: Where it was.
        errors: [steps + 1], |f_walked - f_recursion| over the larger of |f_recursion| and |f_recursion - y|.
        losses: [steps + 1], (1/2n)|f - y|² of the walk.
        tolerance: What was allowed.
        lr: The learning rate of the run.
    """

    passed: bool
    worst: float
    step: int
    errors: np.ndarray
    losses: np.ndarray
    tolerance: float
    lr: float

    def table(self, steps: Sequence[int] | None = None) -> list[dict[str, float]]:
        """Step, loss and error, a row a step; by default of steps 0, 1, 10, 100, … and the last."""
        last = len(self.errors) - 1
        if steps is None:
            powers = [10**power for power in range(len(str(last)))]
            steps = sorted({0, *(power for power in powers if power <= last), last})
        return [
            {"step": step, "loss": float(self.losses[step]), "error": float(self.errors[step])}
            for step in steps
        ]

    def __str__(self) -> str:
        verdict = "passed" if self.passed else "FAILED"
        return (
            f"{verdict}: {len(self.errors) - 1} steps, worst relative error {self.worst:.2e} at step {self.step} "
            f"(allowed {self.tolerance:.0e}), loss {self.losses[0]:.3g} → {self.losses[-1]:.3g}"
        )


def check(
    steps: int = 1000,
    num_directions: int = 8,
    kernel: str = "update",
    coupling: str = "shared",
    distribution: str = "rademacher",
    compute_dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    seed: int = 0,
    lr: float | None = None,
    eps: float = 1e-3,
    tolerance: float = 1e-5,
) -> CheckResult:
    """Trains a linear model through the current engine and compares every step with the recursion.

    Both run freely from the same start: errors add up and are not corrected on the way. Weights are float32,
    so that a part of the error is their own rounding.

    Args:
        steps: How many.
        num_directions: K.
        kernel: "update" or "nzk".
        coupling: "shared" or "independent" vectors in the NZK.
        distribution: Of the directions.
        compute_dtype: Of the differences. bfloat16 rounds each slope to about 1e-2: allow it by ``tolerance``.
        device: Where the model lives.
        seed: Of the directions.
        lr: Learning rate; None for half of the largest stable one.
        eps: Smoothing radius; central differences are exact here at any.
        tolerance: The largest relative error that passes.

    Returns:
        The result; it does not raise where the check fails.

    Raises:
        TypeError: A count is no integer.
        ValueError: A setting is out of range.

    Example:
        >>> from zo_triton.nzk import check
        >>> check(steps=20).passed
        True
    """
    check_count(steps, "steps")
    if not tolerance > 0:
        raise ValueError(f"tolerance must be positive, got {tolerance}.")
    problem = _Problem(device)
    line = problem.line
    if lr is None:
        lr = SHARE_OF_LIMIT * problem.limit(num_directions, coupling, kernel, distribution)
    walk = KernelWalk(
        problem.model.parameters(),
        lr,
        num_directions,
        eps,
        seed,
        distribution,
        kernel,
        coupling,
        compute_dtype=compute_dtype,
    )
    exact = recursion(line.outputs, problem.targets, walk.factors(line.features, steps), lr)
    walked = np.stack(list(problem.outputs(walk, range(steps + 1))))
    residuals = walked - problem.targets
    scale = np.maximum(np.linalg.norm(exact, axis=1), np.linalg.norm(exact - problem.targets, axis=1))
    errors = np.linalg.norm(walked - exact, axis=1) / scale
    worst = int(errors.argmax())
    return CheckResult(
        passed=bool(errors.max() <= tolerance),
        worst=float(errors.max()),
        step=worst,
        errors=errors,
        losses=(residuals**2).mean(1) / 2,
        tolerance=tolerance,
        lr=lr,
    )


@dataclass(frozen=True, eq=False)
class MeanResult:
    """What :func:`check_mean` found.

    Attributes:
        passed: Whether every z-score is within the bound.
        worst: The largest |z| of all outputs, steps and losses.
        steps: [T] the steps recorded.
        z: [T, n] of each output's mean against the closed form.
        loss_z: [T] of the mean loss against the predicted second moment.
    """

    passed: bool
    worst: float
    steps: np.ndarray
    z: np.ndarray
    loss_z: np.ndarray


def check_mean(
    runs: int = 200,
    record: Sequence[int] = (1, 3, 10, 30),
    num_directions: int = 1,
    kernel: str = "update",
    coupling: str = "shared",
    distribution: str = "gaussian",
    device: torch.device | str = "cpu",
    seed: int = 0,
    bound: float = 4.0,
) -> MeanResult:
    """The mean of many runs through the kernels against the closed form, at half the stable learning rate.

    Args:
        runs: How many, each with a seed of its own, ``seed … seed + runs - 1``; at least 2.
        record: At which steps, ascending, at least 1 each; the last is the length of a run.
        num_directions: K.
        kernel: "update" or "nzk".
        coupling: "shared" or "independent" vectors in the NZK.
        distribution: Of the directions.
        device: Where the model lives.
        seed: Of the first run.
        bound: The largest |z| that passes.

    Returns:
        The z-scores of the mean outputs, and of the mean loss against :func:`zo_triton.nzk.spread`.

    Raises:
        TypeError: A count is no integer.
        ValueError: A setting is out of range.
    """
    check_count(runs, "runs", 2)
    kept = check_steps(record)
    if kept[0] < 1 or np.any(np.diff(kept) <= 0):
        raise ValueError(f"record must ascend from 1 or later, got {record!r}.")
    problem = _Problem(device)
    line, targets = problem.line, problem.targets
    lr = SHARE_OF_LIMIT * problem.limit(num_directions, coupling, kernel, distribution)
    found = np.empty((len(kept), runs, len(targets)))
    for run in range(runs):
        problem.reset()
        params = problem.model.parameters()
        walk = KernelWalk(
            params, lr, num_directions, 1e-3, seed_after(seed, run), distribution, kernel, coupling
        )
        for place, outputs in enumerate(problem.outputs(walk, kept)):
            found[place, run] = outputs
    mean_kernel = expected(line.features, distribution, coupling, num_directions, kernel)
    z = mean_z_scores(found, evolve(line.outputs, targets, mean_kernel, lr, kept.tolist()))
    squares = ((found - targets) ** 2).sum(-1, keepdims=True)
    second = spread(
        line.outputs,
        targets,
        line.features,
        lr,
        kept.tolist(),
        distribution,
        coupling,
        num_directions,
        kernel,
        exact=True,
    )
    loss_z = mean_z_scores(squares, second[:, None])[:, 0]
    worst = float(max(np.abs(z).max(), np.abs(loss_z).max()))
    return MeanResult(worst < bound, worst, kept, z, loss_z)


def mean_z_scores(f: Any, predicted: Any) -> np.ndarray:
    """(mean over runs - prediction) / standard error, where runs are the middle axis.

    Args:
        f: [T, runs, n], at least 2 runs.
        predicted: [T, n].

    Returns:
        [T, n]; 0 where no run differs from another and the mean is the prediction to rounding.

    Raises:
        ValueError: Shapes that don't fit, or a single run.
    """
    values, wanted = np.asarray(f, dtype=np.float64), as_matrix(predicted, "predicted")
    if values.ndim != 3 or values.shape[1] < 2 or (values.shape[0], values.shape[2]) != wanted.shape:
        raise ValueError(
            f"f must be [{wanted.shape[0]}, runs, {wanted.shape[1]}] with at least 2 runs, got {values.shape}."
        )
    error = values.std(axis=1, ddof=1) / values.shape[1] ** 0.5
    # Rounding of a mean of equal summands is no evidence against them.
    return (values.mean(axis=1) - wanted) / np.maximum(error, 1e-12 * np.abs(values).max() + 1e-300)


class _Problem:
    """A small linear regression, the same on every machine: model, targets, and their linearisation."""

    def __init__(self, device: torch.device | str) -> None:
        generator = np.random.default_rng(20260)
        self.inputs = torch.tensor(
            generator.standard_normal((SAMPLES, INPUTS)), dtype=torch.float32, device="cpu"
        )
        self.model = nn.Linear(INPUTS, OUTPUTS)
        self._start = [
            torch.tensor(generator.standard_normal(tensor.shape), dtype=torch.float32, device="cpu")
            for tensor in self.model.parameters()
        ]
        self.reset()
        self.line = linearize(self.model, self.inputs)
        teacher = generator.standard_normal(self.line.features.shape[1])
        noise = 0.05 * generator.standard_normal(len(self.line.outputs))
        answers = torch.tensor(self.line.features @ teacher + noise, dtype=torch.float32, device="cpu")
        self.targets = answers.double().numpy()
        self.inputs, self._answers = self.inputs.to(device), answers.reshape(SAMPLES, OUTPUTS).to(device)
        self.model.to(device)
        self._weights = self._flat()

    @torch.no_grad()
    def reset(self) -> None:
        """Puts the start weights back."""
        for tensor, start in zip(self.model.parameters(), self._start, strict=True):
            tensor.copy_(start)

    def limit(self, num_directions: int, coupling: str, kernel: str, distribution: str) -> float:
        """The largest stable learning rate."""
        features = self.line.features
        values = np.linalg.eigvalsh(features.T @ features / len(features))
        return max_stable_lr(values, num_directions, coupling, kernel, features.shape[1], distribution)

    def outputs(self, walk: KernelWalk, steps: Sequence[int] | np.ndarray) -> Iterator[np.ndarray]:
        """Walks and yields the outputs [n] at these ascending steps, exact for the weights as they are."""
        done = 0
        for wanted in steps:
            while done < wanted:
                walk.step(lambda: 0.5 * (self.model(self.inputs) - self._answers).square().mean())
                done += 1
            yield self.line.outputs + self.line.features @ (self._flat() - self._weights)

    def _flat(self) -> np.ndarray:
        tensors = [tensor.detach().double().flatten().cpu() for tensor in self.model.parameters()]
        return as_vector(torch.cat(tensors), "the weights")
