"""The function-space walk with the kernels that were realised, one random draw a step.

Every realised kernel is a product of thin factors, so that a step costs O(K·n) and no kernel is formed:
K̂ = P_ζᵀ·M·P_z with P_z = Z·Xᵀ [K, n] for the vectors z that the slopes are measured along, P_ζ for the vectors ζ
that are walked, and M [K, K]: I/K for the update kernel, ζ·zᵀ/K² for the paper's NZK (arXiv 2603.21169).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from numbers import Real
from typing import Any, NamedTuple

import numpy as np

from zo_triton.nzk.arrays import (
    COUPLINGS,
    KERNELS,
    as_matrix,
    as_square,
    as_vector,
    check_choice,
    check_count,
    check_shapes,
)
from zo_triton.nzk.draws import draw
from zo_triton.nzk.evolution import check_lr, check_steps

CHUNK_VALUES = 1 << 22
"""Random values that are held at a time: 32 MiB."""


class Factors(NamedTuple):
    """Realised kernels of T steps, of one run or of a batch of runs.

    Attributes:
        left: P_ζ, [T, *batch, K, n].
        right: P_z, [T, *batch, K, n]; the same array where the vectors are shared.
        middle: M, [T, *batch, K, K]; None for I/K.
    """

    left: np.ndarray
    right: np.ndarray
    middle: np.ndarray | None = None

    def dense(self) -> np.ndarray:
        """The kernels themselves, [T, *batch, n, n]; for small cases."""
        if self.middle is None:
            return np.swapaxes(self.left, -1, -2) @ self.right / self.left.shape[-2]
        return np.swapaxes(self.left, -1, -2) @ self.middle @ self.right


def check_kind(kernel: str, coupling: str) -> bool:
    """Refuses names that are none; tells whether ζ is drawn apart from z.

    Returns:
        True for the NZK with independent vectors; the update kernel has one set of vectors in any case.

    Raises:
        ValueError: An unknown name.
    """
    check_choice(kernel, "kernel", KERNELS)
    check_choice(coupling, "coupling", COUPLINGS)
    return kernel == "nzk" and coupling == "independent"


def factors(features: Any, z: np.ndarray, zeta: np.ndarray | None = None, kernel: str = "update") -> Factors:
    """The factors of the kernels that these vectors realise.

    Args:
        features: X, [n, d].
        z: [T, *batch, K, d] vectors along which the slope is measured.
        zeta: The same shape, the vectors walked; None where they are z (shared).
        kernel: "update" or "nzk".

    Returns:
        The factors of T steps.

    Raises:
        ValueError: Shapes that don't fit, or separate vectors with the update kernel.
    """
    rows = as_matrix(features, "features")
    check_kind(kernel, "shared")
    if kernel == "update" and zeta is not None:
        raise ValueError(
            "the update kernel measures and walks the same vectors; leave zeta out, or use 'nzk'."
        )
    if z.ndim < 3 or z.shape[-1] != rows.shape[1]:
        raise ValueError(
            f"z must be [steps, ..., K, d] with d = {rows.shape[1]} like the features, got {z.shape}."
        )
    if zeta is not None and zeta.shape != z.shape:
        raise ValueError(f"zeta has shape {zeta.shape}, but z {z.shape}.")
    right = _project(z, rows)
    if kernel == "update":
        return Factors(right, right)
    walked = z if zeta is None else zeta
    left = right if zeta is None else _project(zeta, rows)
    return Factors(left, right, walked @ np.swapaxes(z, -1, -2) / z.shape[-2] ** 2)


def recursion(
    f0: Any,
    y: Any,
    realised: Factors | Iterable[Factors],
    lr: float,
    momentum: float = 0.0,
    record: Sequence[int] | None = None,
) -> np.ndarray:
    """Walks f ← f - (lr/n)·K̂_t·(f - y) through the realised kernels.

    With momentum β: v ← β·v + K̂_t·(f - y)/n, f ← f - lr·v, as torch's SGD and ``zo.ZOSGD`` do it.

    Args:
        f0: [n] outputs at step 0, the same for each run of a batch.
        y: [n] targets.
        realised: The factors, all at once or in chunks of steps.
        lr: Learning rate η > 0.
        momentum: β in [0, 1).
        record: Which steps to keep, ascending; None for all, step 0 included.

    Returns:
        [steps kept, *batch, n] float64.

    Raises:
        ValueError: Lengths differ, lr is not positive, momentum is not in [0, 1), there are fewer steps than
            ``record`` asks for, or ``record`` does not ascend.
    """
    targets = as_vector(y, "y")
    start = as_vector(f0, "f0", len(targets)) - targets
    check_lr(lr)
    check_momentum(momentum)
    wanted = None if record is None else check_steps(record)
    if wanted is not None and np.any(np.diff(wanted) <= 0):
        raise ValueError(f"record must ascend, got {record!r}.")
    chunks = [realised] if isinstance(realised, Factors) else realised
    kept: list[np.ndarray] = []
    residual, done = start, 0
    for change in _changes(chunks, len(targets)):
        if done == 0:
            residual = np.broadcast_to(start, change.batch + start.shape).copy()
            velocity = np.zeros_like(residual)
            if wanted is None or wanted[0] == 0:
                kept.append(residual.copy())
        velocity *= momentum
        velocity += change.of(residual)
        residual -= lr * velocity
        done += 1
        if wanted is None or (len(kept) < len(wanted) and wanted[len(kept)] == done):
            kept.append(residual.copy())
        if wanted is not None and len(kept) == len(wanted):
            break
    if done == 0:
        raise ValueError("realised holds no step; pass the factors of at least one.")
    if wanted is not None and len(kept) < len(wanted):
        raise ValueError(f"record asks for step {wanted[-1]}, but there are factors for only {done} steps.")
    return np.stack(kept) + targets


def simulate(
    features: Any,
    f0: Any,
    y: Any,
    lr: float,
    steps: int,
    distribution: Any = "gaussian",
    coupling: str = "shared",
    num_directions: int = 1,
    kernel: str = "update",
    runs: int = 1,
    seed: int = 0,
    momentum: float = 0.0,
    record: Sequence[int] | None = None,
    shapes: Sequence[Sequence[int]] | None = None,
    rank: int | None = None,
) -> np.ndarray:
    """Independent runs of the function-space walk with vectors drawn afresh each step.

    Args:
        features: X, [n, d].
        f0: [n] outputs at step 0.
        y: [n] targets.
        lr: Learning rate η > 0.
        steps: How many steps.
        distribution: What :func:`zo_triton.nzk.draw` takes.
        coupling: "shared" or "independent" vectors in the NZK.
        num_directions: K, averaged.
        kernel: "update" or "nzk".
        runs: How many runs, each with vectors of its own.
        seed: Of the vectors.
        momentum: β in [0, 1).
        record: Which steps to keep, ascending; None for all, step 0 included.
        shapes: The tensors that the columns belong to, in order; None for one vector.
        rank: Of the directions' factors; needs ``shapes``.

    Returns:
        [steps kept, runs, n] float64.

    Raises:
        TypeError: A count is no integer.
        ValueError: As :func:`recursion`, or an unknown name.
    """
    rows = as_matrix(features, "features")
    targets = as_vector(y, "y", len(rows))
    twice = check_kind(kernel, coupling)
    for name, count in (("steps", steps), ("num_directions", num_directions), ("runs", runs)):
        check_count(count, name)
    check_lr(lr)
    per_run = num_directions * (2 if twice else 1)
    tensors = check_shapes(shapes, rank, rows.shape[1])

    def drawn() -> Iterator[Factors]:
        # The vectors of a step stand run by run, each run's first the K of z, then those of ζ.
        at_once = max(1, CHUNK_VALUES // (runs * per_run * rows.shape[1]))
        for first in range(0, steps, at_once):
            count, offset = min(at_once, steps - first), first * runs * per_run
            flat = draw(distribution, count * runs * per_run, rows.shape[1], seed, offset, tensors, rank)
            vectors = flat.reshape(count, runs, per_run, -1)
            z, zeta = vectors[:, :, :num_directions], vectors[:, :, num_directions:]
            yield factors(rows, z, zeta if twice else None, kernel)

    return recursion(f0, targets, drawn(), lr, momentum, record)


def measured_factor(f: Any, y: Any, ntk: Any, lr: float) -> tuple[float, float]:
    """How many times first-order descent's step the mean dynamics walk, measured on the runs themselves.

    Given f_t, the mean of the next step is -(η/n)·μ·NTK·(f_t - y), whatever came before. So each step yields
    an unbiased μ, r·(r - r')·n/(η·r·NTK·r); their mean over steps and runs has a standard error that needs no
    fit. Divide two methods' values for the acceleration of one by the other.

    Args:
        f: [T + 1, runs, n], every step of the runs, as :func:`simulate` returns them.
        y: [n] targets.
        ntk: [n, n], XXᵀ.
        lr: Learning rate η > 0 of the runs.

    Returns:
        The factor μ and its standard error.

    Raises:
        ValueError: Shapes that don't fit, fewer than two steps in all, or a residual that the NTK maps to 0.
    """
    targets = as_vector(y, "y")
    matrix = as_square(ntk, "ntk", len(targets))
    check_lr(lr)
    outputs = np.asarray(f, dtype=np.float64)
    if outputs.ndim != 3 or outputs.shape[-1] != len(targets) or len(outputs) < 2:
        raise ValueError(f"f must be [steps + 1, runs, {len(targets)}], got shape {outputs.shape}.")
    residual = outputs[:-1] - targets
    moved = (residual * (outputs[:-1] - outputs[1:])).sum(-1)
    expected = lr / len(targets) * ((residual @ matrix) * residual).sum(-1)
    if expected.size < 2 or not expected.min() > 0:
        raise ValueError("needs at least two steps, all with a residual that the NTK does not map to zero.")
    found = moved / expected
    return float(found.mean()), float(found.std(ddof=1)) / found.size**0.5


def check_momentum(momentum: float) -> float:
    """Refuses what is no momentum.

    Raises:
        TypeError: It is no number.
        ValueError: It is outside of [0, 1).
    """
    if not isinstance(momentum, Real):
        raise TypeError(f"momentum must be a number in [0, 1), got {momentum!r}; pass 0.0 for none.")
    if not 0 <= momentum < 1:
        raise ValueError(f"momentum must be in [0, 1), got {momentum!r}.")
    return float(momentum)


def _project(vectors: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """[..., d] → [..., n], as one matrix product."""
    return (vectors.reshape(-1, rows.shape[1]) @ rows.T).reshape(*vectors.shape[:-1], len(rows))


class _Change(NamedTuple):
    """One step's K̂/n as an operator on residuals [*batch, n]."""

    left: np.ndarray
    right: np.ndarray
    middle: np.ndarray | float

    @property
    def batch(self) -> tuple[int, ...]:
        return self.left.shape[:-2]

    def of(self, residual: np.ndarray) -> np.ndarray:
        slopes = self.right @ residual[..., None]
        slopes = self.middle * slopes if isinstance(self.middle, float) else self.middle @ slopes
        return (np.swapaxes(slopes, -1, -2) @ self.left)[..., 0, :] / residual.shape[-1]


def _changes(chunks: Iterable[Factors], samples: int) -> Iterator[_Change]:
    for chunk in chunks:
        if chunk.left.shape != chunk.right.shape or chunk.left.shape[-1] != samples:
            raise ValueError(
                f"the factors must end in [K, {samples}], got {chunk.left.shape} and {chunk.right.shape}."
            )
        for step in range(len(chunk.left)):
            middle = 1.0 / chunk.left.shape[-2] if chunk.middle is None else chunk.middle[step]
            yield _Change(chunk.left[step], chunk.right[step], middle)
