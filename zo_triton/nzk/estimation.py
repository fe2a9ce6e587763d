"""Kernels measured by Monte Carlo: their mean over random vectors, with standard errors.

Draw number b uses the vectors bK … (b+1)K − 1 of :func:`zo_triton.nzk.draw`; with independent vectors 2K of
them, the first K as z and the last K as ζ. All arithmetic is float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zo_triton.nzk.arrays import (
    COUPLINGS,
    KERNELS,
    as_matrix,
    as_square,
    check_choice,
    check_count,
    check_shapes,
)
from zo_triton.nzk.draws import draw

CHUNK_VALUES = 2**21
"""Values of random vectors, or of single kernels, that are held at a time: 16 MiB."""

PAIRED_DIRECTIONS = 8
"""Up to this K a kernel's squared entries cost less from the K(K+1)/2 pairs of directions (n = 200)."""


@dataclass(frozen=True, eq=False)
class Estimate:
    """Mean of a random kernel over draws.

    Args:
        mean: [n, n].
        standard_error: Of each entry of ``mean``, [n, n]: sample deviation / √num_draws. The entries of one
            kernel depend on one another.
        num_draws: How many draws.
        trace: Mean of the kernel's trace; divided by that of the NTK, the measured factor.
        trace_error: Its standard error.
    """

    mean: np.ndarray
    standard_error: np.ndarray
    num_draws: int
    trace: float
    trace_error: float

    def z_scores(self, kernel: Any) -> np.ndarray:
        """(mean − kernel)/standard_error, [n, n]; where nothing is random, 0 if equal and infinite if not.

        Args:
            kernel: What the mean should be, [n, n].

        Raises:
            ValueError: Another shape than [n, n], or a NaN.
        """
        wanted = as_square(kernel, "kernel", len(self.mean))
        # Rounding of a mean of equal summands is no evidence against them.
        noise = np.maximum(self.standard_error, 1e-13 * np.abs(self.mean).max())
        gap = self.mean - wanted
        return np.divide(gap, noise, out=np.where(gap == 0, 0.0, np.inf), where=noise > 0)


def empirical(
    features: Any,
    distribution: Any = "gaussian",
    coupling: str = "shared",
    num_directions: int = 1,
    kernel: str = "nzk",
    num_draws: int = 10_000,
    seed: int = 0,
    rank: int | None = None,
    shapes: Sequence[Sequence[int]] | None = None,
) -> Estimate:
    """Monte Carlo mean of K̂ (arXiv 2603.21169), by a few matrix products over many draws at once.

    With P_z = ZXᵀ and P_ζ of shape [K, n] and G = ζzᵀ of shape [K, K], a draw of the ``nzk`` kernel is
    P_ζᵀ G P_z/K², of the ``update`` kernel P_zᵀ P_z/K.

    Args:
        features: X [n, d].
        distribution: What :func:`zo_triton.nzk.draw` takes.
        coupling: ``shared`` (ζ = z) or ``independent``; without meaning for the ``update`` kernel.
        num_directions: K.
        kernel: ``nzk`` or ``update``.
        num_draws: How many kernels are averaged, at least 2.
        seed: As :class:`zo_triton.Directions` takes it; the same seed gives the same vectors.
        rank: Of the directions' factors; needs ``shapes``.
        shapes: The tensors that the columns belong to, in order; None for one vector.

    Returns:
        The mean and its standard errors. Beside a few arrays of n·d and n² values, draws take some 100 MiB
        at a time, or one draw where that is more.

    Raises:
        TypeError: An argument is of the wrong kind.
        ValueError: An argument is out of range.

    Example:
        >>> from zo_triton.nzk import empirical, expected
        >>> x = [[0.6, 0.8], [1.0, 0.0]]
        >>> measured = empirical(x, "laplace", num_draws=1000)
        >>> bool(abs(measured.z_scores(expected(x, "laplace"))).max() < 4)
        True
    """
    matrix = torch.from_numpy(as_matrix(features, "features"))
    outputs, size = matrix.shape
    check_choice(coupling, "coupling", COUPLINGS)
    check_choice(kernel, "kernel", KERNELS)
    count = check_count(num_directions, "num_directions")
    draws = check_count(num_draws, "num_draws", 2)
    tensors = check_shapes(shapes, rank, size)
    vectors = vectors_per_draw(coupling, count, kernel)
    together = max(1, CHUNK_VALUES // (vectors * max(size, outputs)))
    total = Accumulator(outputs)
    for start in range(0, draws, together):
        some = min(together, draws - start)
        flat = torch.from_numpy(
            draw(distribution, some * vectors, size, seed, start * vectors, shapes=tensors, rank=rank)
        )
        products = (flat @ matrix.T).view(some, vectors, outputs)
        z = flat.view(some, vectors, size)
        if kernel == "update":
            total.add(products, None, products)
        else:
            gram = torch.bmm(z[:, -count:], z[:, :count].transpose(1, 2)) if count > 1 else _dots(z)
            total.add(products[:, -count:], gram, products[:, :count])
    return total.estimate()


def vectors_per_draw(coupling: str, num_directions: int, kernel: str) -> int:
    """How many random vectors one kernel takes: K, or 2K where ζ and z are independent."""
    return 2 * num_directions if kernel == "nzk" and coupling == "independent" else num_directions


class Accumulator:
    """Sums kernels and their squares, entry by entry, a batch of draws at a time.

    Args:
        outputs: n.
    """

    def __init__(self, outputs: int) -> None:
        self.sum = torch.zeros(outputs, outputs, dtype=torch.float64, device="cpu")
        self.squares = torch.zeros_like(self.sum)
        self.traces: list[Tensor] = []

    def add(self, left: Tensor, gram: Tensor | None, right: Tensor) -> None:
        """Adds B kernels, each leftᵀ·gram·right/K², or leftᵀ·right/K without a Gram matrix.

        Args:
            left: P_ζ, float64 [B, K, n].
            gram: ζ_k·z_l, float64 [B, K, K], or None.
            right: P_z, float64 [B, K, n].
        """
        count = left.shape[1]
        weighted = right / count if gram is None else torch.bmm(gram, right) / count**2
        self.sum += left.flatten(0, 1).T @ weighted.flatten(0, 1)
        self.traces.append((left * weighted).sum((1, 2)))
        outputs = len(self.sum)
        if count <= PAIRED_DIRECTIONS:
            together = max(1, CHUNK_VALUES // (count * (count + 1) // 2 * outputs))
            squares = _squares_by_pairs
        else:
            together = max(1, CHUNK_VALUES // outputs**2)
            squares = _squares_by_kernels
        for some_left, some_right in zip(left.split(together), weighted.split(together), strict=True):
            self.squares += squares(some_left, some_right)

    def estimate(self) -> Estimate:
        """The mean of all kernels added, at least 2."""
        traces = torch.cat(self.traces)
        draws = len(traces)
        mean = self.sum / draws
        variance = (self.squares / draws - mean.square()).clamp_(min=0.0) * (draws / (draws - 1))
        return Estimate(
            mean=mean.numpy(),
            standard_error=(variance / draws).sqrt().numpy(),
            num_draws=draws,
            trace=float(traces.mean()),
            trace_error=float(traces.std() / draws**0.5),
        )


def _squares_by_pairs(left: Tensor, right: Tensor) -> Tensor:
    """Σ_b (Σ_k left_bki·right_bkj)² as one product over all b and all pairs k ≤ l: [B, K, n] twice → [n, n]."""
    first, second = torch.triu_indices(left.shape[1], left.shape[1], dtype=torch.int64, device="cpu")
    twice = torch.where(first == second, 1.0, 2.0).double().unsqueeze(1)
    left_pairs = left[:, first] * left[:, second] * twice
    return left_pairs.flatten(0, 1).T @ (right[:, first] * right[:, second]).flatten(0, 1)


def _squares_by_kernels(left: Tensor, right: Tensor) -> Tensor:
    """The same by forming each kernel."""
    return torch.bmm(left.transpose(1, 2), right).square_().sum(0)


def _dots(z: Tensor) -> Tensor:
    """ζ·z of single vectors: z [B, 1 or 2, d] → [B, 1, 1]."""
    return torch.linalg.vecdot(z[:, -1], z[:, 0]).view(-1, 1, 1)
