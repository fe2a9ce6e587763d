"""Single runs: in function space with the realised kernels, and in parameter space through the fused kernels.

Both take their vectors from the field under the same seed and indices, so they must walk the same path.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.nzk.problems import Problem
from benchmarks.nzk.settings import Noise
from zo_triton import nzk
from zo_triton.directions import Directions
from zo_triton.nzk.function_space import Factors, factors

CHUNK_VALUES = 1 << 21
"""Random values drawn at a time."""

Tell = Callable[[int], None]


def function_walk(
    problem: Problem,
    noise: Noise,
    coupling: str,
    directions: int,
    lr: float,
    record: Sequence[int],
    seed: int,
    tell: Tell,
) -> np.ndarray:
    """Outputs [len(record), n] of f ← f - (η/n)·K̂(f - y) with the paper's kernel, one run.

    Args:
        problem: Features, first outputs and targets.
        noise: Of the directions.
        coupling: ``shared`` or ``independent``.
        directions: K.
        lr: η.
        record: Ascending steps to keep.
        seed: Of the directions.
        tell: Told the steps done.
    """
    drawn = _realised(problem, noise, coupling, directions, record[-1], seed, tell)
    # A run beyond the stable limit may leave float64's range; what it was before that still counts.
    with np.errstate(over="ignore", invalid="ignore"):
        return nzk.recursion(problem.outputs, problem.targets, drawn, lr, record=list(record))


def parameter_walk(
    problem: Problem,
    noise: Noise,
    directions: int,
    lr: float,
    record: Sequence[int],
    seed: int,
    device: torch.device,
    tell: Tell,
) -> np.ndarray:
    """Outputs [len(record), n] of a float32 run of the linear model that realises the shared kernel.

    Each step measures the loss along K directions by fused differences, multiplies the slopes by the directions'
    Gram matrix and moves the weights in place; no direction is stored.

    Args:
        problem: Features, first outputs and targets.
        noise: Of the directions, a multiple of one of the field's distributions.
        directions: K.
        lr: η.
        record: Ascending steps to keep.
        seed: Of the directions, as in :func:`function_walk`.
        device: Where to run.
        tell: Told the steps done.
    """
    assert noise.field is not None
    features = torch.tensor(problem.features, dtype=torch.float32, device=device)
    offset = torch.tensor(problem.targets - problem.outputs, dtype=torch.float32, device=device)[:, None]
    weight = torch.zeros(1, problem.size, device=device)

    def loss() -> torch.Tensor:
        return 0.5 * F.mse_loss(F.linear(features, weight), offset)

    # The field's values have variance 1, and the shared kernel is of fourth order in them.
    rate = lr * noise.scale**4
    kept, wanted, plan = [], set(record), None
    for step in range(record[-1] + 1):
        if step in wanted:
            displacement = weight[0].double().cpu().numpy()
            kept.append(problem.outputs + problem.features @ displacement)
        if step == record[-1] or not np.isfinite(kept[-1]).all():
            break
        named = Directions(seed, 0, directions, noise.field, first=step * directions)
        done = nzk.walk_step(
            loss, [weight], named, rate, eps=1e-3, kernel="nzk", coupling="shared", plan=plan
        )
        plan = done.plan
        if step % 64 == 0:
            tell(step)
    missing = len(record) - len(kept)
    return np.array(kept + [np.full(problem.samples, np.nan)] * missing)


def _realised(
    problem: Problem, noise: Noise, coupling: str, directions: int, steps: int, seed: int, tell: Tell
) -> Iterator[Factors]:
    """Chunks of realised kernels; step t takes the vectors number t·w … (t+1)·w - 1, z before ζ."""
    width = directions * (2 if coupling == "independent" else 1)
    at_once = max(1, CHUNK_VALUES // (width * problem.size))
    law, scale = (noise.field, noise.scale) if noise.field else (noise.law(), 1.0)
    for first in range(0, steps, at_once):
        count = min(at_once, steps - first)
        vectors = nzk.draw(law, count * width, problem.size, seed, first=first * width)
        vectors = scale * vectors.reshape(count, width, problem.size)
        z, zeta = vectors[:, :directions], vectors[:, directions:]
        tell(first)
        yield factors(problem.features, z, zeta if coupling == "independent" else None, "nzk")
