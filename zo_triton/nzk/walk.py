"""A walk in parameter space, through the fused kernels, whose every step realises one kernel exactly.

θ ← θ + Σ_k a_k·ζ_k moves the outputs of a linear model by Σ_k a_k·P_ζ[k]. With slopes c_k = z_k·∇L measured by
central differences, exact on a squared loss of a linear model:

* update kernel: a = -lr·c/K along ζ = z;
* NZK, shared vectors: a = -lr·G·c/K² along ζ = z with the Gram matrix G[k, l] = z_k·z_l;
* NZK, independent vectors: the same with G[k, l] = ζ_k·z_l; the first K directions are z, the last K are ζ.

So f ← f - (lr/n)·K̂·(f - y) to rounding, which no other check of the kernels matches in strictness.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from math import prod
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from zo_triton import ops
from zo_triton.difference import Evaluation, Plan, propagate
from zo_triton.directions import Directions
from zo_triton.nzk.arrays import as_matrix, check_count, check_shapes
from zo_triton.nzk.coordinate_moments import check_independent
from zo_triton.nzk.evolution import check_lr
from zo_triton.nzk.function_space import Factors, check_kind, factors
from zo_triton.optim.errors import NonFiniteLossError

CHUNK_VALUES = 1 << 22
"""Random values that are held at a time: 32 MiB."""


class WalkStep(NamedTuple):
    """What one step measured and did.

    Attributes:
        loss: The base loss, before the move.
        slopes: c, [K] float64, along z.
        coefficients: a, [K] float64, along ζ.
        plan: Of the measurement; pass it to the next step of the same closure.
    """

    loss: float
    slopes: Tensor
    coefficients: Tensor
    plan: Plan


@torch.no_grad()
def walk_step(
    closure: Callable[[], Tensor],
    params: Iterable[Tensor],
    directions: Directions,
    lr: float,
    eps: float = 1e-3,
    kernel: str = "update",
    coupling: str = "shared",
    sides: int = 2,
    compute_dtype: torch.dtype = torch.float32,
    plan: Plan | None = None,
) -> WalkStep:
    """One step of the walk, in place.

    Args:
        closure: Takes nothing, returns the scalar loss; for the (1/2n)|f - y|² of the theory
            ``0.5 * (model(x) - y).square().mean()``.
        params: The trained tensors, float32 or float64; a tensor's position is its id in the field.
        directions: Names the K directions; 2K for the NZK with independent vectors, z first, then ζ.
        lr: Learning rate η > 0.
        eps: Smoothing radius ε.
        kernel: "update" or "nzk".
        coupling: "shared" or "independent" vectors in the NZK.
        sides: 2 for central differences; 1 adds (ε/2)·zᵀHz to every slope.
        compute_dtype: Of the activations' differences, float32 or bfloat16.
        plan: Of an earlier step with the same closure and number of directions.

    Returns:
        Loss, slopes, coefficients and plan.

    Raises:
        TypeError: A parameter is neither float32 nor float64, or as :func:`zo_triton.differences`.
        NonFiniteLossError: A slope is not finite; the weights are as they were.
        ValueError: An odd number of directions where z and ζ share them, a loss that is no scalar, or as
            :func:`zo_triton.differences`.
    """
    tensors = list(params)
    measured, walked = _split(directions, kernel, coupling)
    check_lr(lr)
    for position, tensor in enumerate(tensors):
        if isinstance(tensor, Tensor) and tensor.dtype not in (torch.float32, torch.float64):
            raise TypeError(
                f"parameter {position} has dtype {tensor.dtype}; the walk moves float32 or float64 weights."
            )
    evaluation = Evaluation(eps, sides, compute_dtype)
    value, found, plan, _ = propagate(closure, tensors, measured, evaluation, plan=plan)
    if value.numel() != 1:
        raise ValueError(f"the closure must return a scalar loss, got shape {tuple(value.shape)}.")
    found = found.reshape(measured.num, sides).double()
    radius = float(np.float32(eps))
    slopes = found[:, 0] / radius if sides == 1 else (found[:, 0] - found[:, 1]) / (2 * radius)
    if not torch.isfinite(slopes).all():
        raise NonFiniteLossError(
            f"{int((~torch.isfinite(slopes)).sum())} of {measured.num} slopes are not finite; lower lr or eps."
        )
    ids = range(len(tensors))
    if kernel == "update":
        coefficients = slopes * (-lr / measured.num)
    else:
        gram = ops.gram(tensors, ids, directions, compute_dtype)
        scales = ops.direction_scales(tensors, ids, directions, compute_dtype)
        if scales is not None:
            gram = gram * torch.outer(scales, scales)
        coefficients = gram[-walked.num :, : measured.num] @ slopes * (-lr / measured.num**2)
    scales = ops.direction_scales(tensors, ids, walked, compute_dtype)
    amounts = coefficients if scales is None else coefficients * scales
    ops.accumulate(tensors, ids, amounts.float(), walked, compute_dtype)
    return WalkStep(float(value), slopes, coefficients, plan)


class KernelWalk:
    """Walks step by step with fresh directions, like an optimizer.

    Args:
        params: The trained tensors, float32 or float64.
        lr: Learning rate η > 0.
        num_directions: K.
        eps: Smoothing radius ε.
        seed: Of the directions.
        distribution: Of the directions.
        kernel: "update" or "nzk".
        coupling: "shared" or "independent" vectors in the NZK.
        sides: 2 for central differences, 1 for one-sided ones.
        compute_dtype: Of the activations' differences.
        rank: Of the directions' factors, or None.

    Raises:
        TypeError: A count is no integer.
        ValueError: A setting is out of range.

    Example:
        >>> import torch
        >>> from zo_triton.nzk import KernelWalk
        >>> w = torch.tensor([1.0, -2.0])
        >>> walk = KernelWalk([w], lr=0.05, num_directions=2, kernel="nzk")
        >>> walk.step(lambda: w.square().sum())
        5.0
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float,
        num_directions: int = 1,
        eps: float = 1e-3,
        seed: int = 0,
        distribution: str = "gaussian",
        kernel: str = "update",
        coupling: str = "shared",
        sides: int = 2,
        compute_dtype: torch.dtype = torch.float32,
        rank: int | None = None,
    ) -> None:
        twice = check_kind(kernel, coupling)
        num = check_count(num_directions, "num_directions") * (2 if twice else 1)
        self.params, self.lr, self.eps = list(params), check_lr(lr), eps
        self.kernel, self.coupling, self.sides, self.compute_dtype = kernel, coupling, sides, compute_dtype
        check_independent(distribution)
        self.next_directions = Directions(seed, 0, num, distribution, rank=rank)
        self.last: WalkStep | None = None

    def step(self, closure: Callable[[], Tensor]) -> float:
        """One step; returns the base loss before it. Arguments and errors are those of :func:`walk_step`."""
        self.last = walk_step(
            closure,
            self.params,
            self.next_directions,
            self.lr,
            self.eps,
            self.kernel,
            self.coupling,
            self.sides,
            self.compute_dtype,
            None if self.last is None else self.last.plan,
        )
        self.next_directions = replace(self.next_directions, step=self.next_directions.step + 1)
        return self.last.loss

    def factors(self, features: Any, steps: int) -> Iterator[Factors]:
        """The kernels that the next ``steps`` steps will realise; see :func:`realised_factors`."""
        shapes = [tuple(tensor.shape) for tensor in self.params]
        device = self.params[0].device
        return realised_factors(
            features,
            self.next_directions,
            steps,
            self.kernel,
            self.coupling,
            shapes,
            self.compute_dtype,
            device,
        )


def realised_factors(
    features: Any,
    directions: Directions,
    steps: int,
    kernel: str = "update",
    coupling: str = "shared",
    shapes: Sequence[Sequence[int]] | None = None,
    compute_dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Iterator[Factors]:
    """The kernels that a walk realises, from the field's own vectors: what :func:`recursion` steps through.

    Args:
        features: X, [n, d], columns in the order of the parameters.
        directions: Those of the first step; each later step counts ``step`` up.
        steps: How many steps.
        kernel: "update" or "nzk".
        coupling: "shared" or "independent"; then the first half of the directions is z, the rest ζ.
        shapes: The tensors that the columns belong to, in order; None for one vector.
        compute_dtype: That of the walk; bfloat16 directions are rounded values.
        device: Where to draw; the walk's, if engines are to agree to the last bit.

    Yields:
        Factors of some steps at a time, float64.

    Raises:
        TypeError: A count is no integer.
        ValueError: Shapes that don't fit, or an odd number of directions where z and ζ share them.
    """
    rows = as_matrix(features, "features")
    tensors = check_shapes(shapes, directions.rank if shapes is not None else None, rows.shape[1])
    measured, walked = _split(directions, kernel, coupling)
    total = check_count(steps, "steps")
    at_once = max(1, CHUNK_VALUES // (directions.num * rows.shape[1]))
    for first in range(0, total, at_once):
        count = min(at_once, total - first)
        vectors = np.empty((count, directions.num, rows.shape[1]))
        for place in range(count):
            named = replace(directions, step=directions.step + first + place)
            vectors[place] = walked_vectors(named, tensors, compute_dtype, device)
        zeta = vectors[:, measured.num :] if walked is not measured else None
        yield factors(rows, vectors[:, : measured.num], zeta, kernel)


def walked_vectors(
    directions: Directions,
    shapes: Sequence[Sequence[int]],
    compute_dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> np.ndarray:
    """The directions as the engine walks them, all tensors joined: [K, d] float64."""
    # Drawn element by element: the sphere's length is that of all tensors together.
    elements = replace(directions.over(shapes), distribution=directions.elementwise)
    vectors = np.empty((directions.num, sum(prod(shape) for shape in shapes)))
    first = 0
    for position, shape in enumerate(shapes):
        drawn = ops.sample(elements, position, shape, compute_dtype, device).reshape(directions.num, -1)
        # NumPy converts: torch's own threads would contend with the engine's.
        vectors[:, first : first + drawn.shape[1]] = (
            drawn if drawn.dtype != torch.bfloat16 else drawn.float()
        ).cpu()
        first += drawn.shape[1]
    if directions.distribution == "sphere":
        vectors *= vectors.shape[1] ** 0.5 / np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def _split(directions: Directions, kernel: str, coupling: str) -> tuple[Directions, Directions]:
    """The directions measured and those walked; one and the same value where they are shared."""
    if not isinstance(directions, Directions):
        raise TypeError(f"directions must be a zo.Directions, got {directions!r}.")
    check_independent(directions.distribution)
    if not check_kind(kernel, coupling):
        return directions, directions
    if directions.num % 2:
        raise ValueError(
            f"independent vectors take an even number of directions, K of z and K of ζ, got {directions.num}."
        )
    half = directions.num // 2
    return directions[:half], directions[half:]
