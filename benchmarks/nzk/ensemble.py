"""Many runs at once in the coordinates in which the problem is diagonal: r numbers a run instead of n or d.

With X = U·S·V the loss's gradient is Vᵀg with g = S·s/n, where s = Uᵀ(f - y), and a step θ ← θ - η·δ moves s by
-η·S·Vδ. Only the r coordinates Vz of a direction matter, and its share outside the rows of X only through inner
products. For Gaussian directions both have simple exact laws, so no run ever draws d numbers:

- Vz is standard normal, and what ζ·z gets from outside is χ² with d - r degrees for ζ = z, and
  √χ²·N(0, 1) for independent vectors.
- The average of K ordinary directions moves by |g|(q·e + √q·ξ)/K with e = g/|g|, q ~ χ²_K, and ξ a standard normal
  vector orthogonal to e: each of the K terms is u_k²·e + u_k·ξ_k with u_k = z_k·e.
- The best of K directions is the same with one term whose u is the greatest of K normals by magnitude.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from benchmarks.nzk.problems import Modes
from benchmarks.nzk.settings import Noise

METHODS = ("shared", "independent", "update", "best")
"""The paper's kernel with shared and with independent vectors, the ordinary step, and its best direction alone."""

HOPELESS = 1e12
"""Growth of the squared residual at which a run counts as lost."""


@dataclass(frozen=True, eq=False)
class Ensemble:
    """What many runs of one method did.

    Attributes:
        losses: [T, R] losses at the recorded steps, infinite once a run is lost.
        ratio: [R] each run's mean over its steps of the realised move's length along the first-order move, in
            units of it: an unbiased estimate of the kernel's factor.
    """

    losses: np.ndarray
    ratio: np.ndarray


def run_ensemble(
    modes: Modes,
    method: str,
    lr: float,
    record: Sequence[int],
    runs: int,
    noise: Noise,
    seed: int,
    directions: int = 1,
    tell: Callable[[int], None] = lambda step: None,
    largest: np.ndarray | None = None,
) -> Ensemble:
    """Simulates ``runs`` independent runs.

    Args:
        modes: The problem.
        method: One of :data:`METHODS`.
        lr: Learning rate η.
        record: Ascending steps at which the loss is kept; the last is the number of steps.
        runs: R.
        noise: Of the directions; ``update`` and ``best`` take normal(1) alone.
        seed: Of the runs' vectors.
        directions: K.
        tell: Told the step now and then.
        largest: For ``best``: values of q to draw from instead of the greatest of K squared normals.
    """
    generator = np.random.default_rng((seed, METHODS.index(method)))
    move = _MOVES[method] if largest is None else _ordinary(True, largest)
    values, samples = modes.values, modes.samples
    state = np.tile(modes.start, (runs, 1))
    limit = HOPELESS * float(modes.start @ modes.start)
    kept, ratio, counted = [], np.zeros(runs), np.zeros(runs)
    wanted = set(record)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        for step in range(record[-1] + 1):
            if step in wanted:
                squares = np.einsum("ri,ri->r", state, state)
                lost = ~(squares < limit)
                kept.append(np.where(lost, np.inf, modes.floor + squares / (2 * samples)))
            if step == record[-1]:
                break
            gradient = state * (values / samples)
            change = move(generator, modes, gradient, directions, noise) * values
            expected = gradient * values
            size = np.einsum("ri,ri->r", expected, expected)
            # A residual that has died out or blown up has no direction left to be measured along.
            alive = (size > 1e-200) & (size < 1e200)
            along = np.einsum("ri,ri->r", change, expected)
            ratio += np.where(alive, along / np.where(alive, size, 1.0), 0.0)
            counted += alive
            state -= lr * change
            if step % 256 == 0:
                tell(step)
    return Ensemble(np.array(kept), ratio / np.maximum(counted, 1))


def measure_ratio(
    modes: Modes, coupling: str, noise: Noise, directions: int, draws: int, seed: int
) -> tuple[float, float]:
    """Factor of the expected kernel by a regression over all residual directions at once, and its error.

    Each draw's kernel K̂ gives tr(NTK⁺K̂)/r, whose expectation is the factor. It is what the walks' ratio
    would be from r starts along the r modes, all walked with the same vectors.

    Args:
        modes: The problem.
        coupling: ``shared`` or ``independent``.
        noise: Of the directions.
        directions: K.
        draws: How many kernels.
        seed: Of the vectors.
    """
    generator = np.random.default_rng((seed, 100 + METHODS.index(coupling)))
    at_once = max(1, (1 << 20) // (modes.rank * directions))
    found = []
    for first in range(0, draws, at_once):
        count = min(at_once, draws - first)
        z, zeta, gram = _vectors(generator, modes, count, directions, noise, coupling == "shared")
        along = np.einsum("rki,rli->rkl", zeta, z)
        found.append((along * gram).sum((1, 2)) / (directions**2 * modes.rank))
    values = np.concatenate(found)
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values)))


def _vectors(
    generator: np.random.Generator, modes: Modes, runs: int, directions: int, noise: Noise, shared: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Vz and Vζ, [R, K, r], and the inner products ζ_k·z_l, [R, K, K]."""
    shape, outside = (runs, directions, modes.rank), modes.size - modes.rank
    if noise.family != "normal":
        z = _draw(generator, noise, (runs, directions, modes.size))
        zeta = z if shared else _draw(generator, noise, z.shape)
        return z @ modes.right.T, zeta @ modes.right.T, np.einsum("rki,rli->rkl", zeta, z)
    z = noise.parameter * generator.standard_normal(shape)
    zeta = z if shared else noise.parameter * generator.standard_normal(shape)
    gram = np.einsum("rki,rli->rkl", zeta, z)
    if outside:
        gram += noise.parameter**2 * _outside(generator, outside, runs, directions, shared)
    return z, zeta, gram


def _outside(
    generator: np.random.Generator, size: int, runs: int, directions: int, shared: bool
) -> np.ndarray:
    """Inner products [R, K, K] of standard normal vectors of a length that no one looks into."""
    if directions > 1:
        z = generator.standard_normal((runs, directions, size))
        zeta = z if shared else generator.standard_normal(z.shape)
        return np.einsum("rki,rli->rkl", zeta, z)
    squares = generator.chisquare(size, (runs, 1, 1))
    return squares if shared else np.sqrt(squares) * generator.standard_normal((runs, 1, 1))


def _draw(generator: np.random.Generator, noise: Noise, shape: tuple[int, ...]) -> np.ndarray:
    if noise.family == "t":
        return generator.standard_t(noise.parameter, shape)
    if noise.family == "laplace":
        return generator.laplace(scale=noise.parameter, size=shape)
    return generator.normal(scale=noise.parameter, size=shape)


_Move = Callable[[np.random.Generator, Modes, np.ndarray, int, Noise], np.ndarray]


def _nzk(shared: bool) -> _Move:
    def move(
        generator: np.random.Generator, modes: Modes, gradient: np.ndarray, directions: int, noise: Noise
    ) -> np.ndarray:
        z, zeta, gram = _vectors(generator, modes, len(gradient), directions, noise, shared)
        if directions == 1:
            slopes = np.einsum("ri,ri->r", z[:, 0], gradient) * gram[:, 0, 0]
            return slopes[:, None] * zeta[:, 0]
        slopes = np.einsum("rkl,rl->rk", gram, np.einsum("rki,ri->rk", z, gradient)) / directions**2
        return np.einsum("rk,rki->ri", slopes, zeta)

    return move


def _ordinary(only_best: bool, largest: np.ndarray | None = None) -> _Move:
    def move(
        generator: np.random.Generator, modes: Modes, gradient: np.ndarray, directions: int, noise: Noise
    ) -> np.ndarray:
        assert (noise.family, noise.parameter) == ("normal", 1.0)
        runs = len(gradient)
        length = np.sqrt(np.einsum("ri,ri->r", gradient, gradient))
        along = gradient / np.maximum(length, 1e-300)[:, None]
        other = generator.standard_normal(gradient.shape)
        other -= np.einsum("ri,ri->r", other, along)[:, None] * along
        if largest is not None:
            share, divisor = generator.choice(largest, runs), 1
        elif only_best:
            # The greatest of K magnitudes by the inverse of its distribution function, F(u)^K.
            share = special.ndtri(0.5 + 0.5 * generator.uniform(size=runs) ** (1 / directions)) ** 2
            divisor = 1
        else:
            share, divisor = generator.chisquare(directions, runs), directions
        weight, sideways = (share * length / divisor)[:, None], (np.sqrt(share) * length / divisor)[:, None]
        return weight * along + sideways * other

    return move


_MOVES: dict[str, _Move] = {
    "shared": _nzk(True),
    "independent": _nzk(False),
    "update": _ordinary(False),
    "best": _ordinary(True),
}
