"""Where the real network leaves what is predicted for the linearised one."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.nzk.cases import POINTS, Monitor, ensemble_size
from benchmarks.nzk.ensemble import run_ensemble
from benchmarks.nzk.network import AGGREGATORS, NetworkRun
from benchmarks.nzk.numbers import plain, record_steps
from benchmarks.nzk.prediction import mean_losses
from benchmarks.nzk.problems import Problem
from benchmarks.nzk.settings import GAUSSIAN, Settings
from zo_triton.nzk.fluctuation import StepMoments, step_moments

LEFT = 0.05
"""Relative deviation of the loss from which on the network has left the prediction."""


def network_runs(problem: Problem, settings: Settings, engine: str | None, device: str) -> list[NetworkRun]:
    """The runs of the real network, one an aggregator."""
    assert problem.model is not None
    return [
        NetworkRun(
            place,
            problem.model,
            problem.pair.x,
            problem.targets.astype(np.float32),
            aggregator,
            settings.lr,
            settings.steps,
            settings.network_directions,
            settings.eps,
            settings.seed,
            engine,
            device,
        )
        for place, aggregator in enumerate(AGGREGATORS)
    ]


def linearised(problem: Problem, settings: Settings, aggregator: str) -> str:
    """What is said of the linearised network's runs."""
    count, runs = settings.network_directions, ensemble_size(problem.modes, settings)
    return f"{problem.name}: linearised network, {aggregator} of {count} directions, {runs} runs"


def compare(
    problem: Problem, settings: Settings, aggregator: str, losses: list[float], monitor: Monitor
) -> dict[str, Any]:
    """One aggregator's part of the record.

    Args:
        problem: The linearised network.
        settings: Of the experiment.
        aggregator: ``average`` or ``best``.
        losses: Of the real network before each step, and after the last if it got there.
        monitor: Told how far the linearised runs are.
    """
    modes, count = problem.modes, settings.network_directions
    method = "update" if aggregator == "average" else "best"
    gradient = problem.features.T @ (problem.outputs - problem.targets)
    largest = best_signs(gradient, count, seed=settings.seed) if method == "best" else None
    moments = _moments(problem, count, largest)
    real = np.array(losses)
    every = np.arange(len(real))
    predicted = mean_losses(modes, moments, settings.lr, every)
    deviation = (real - predicted) / predicted
    left = np.flatnonzero(np.abs(deviation) > LEFT)

    record = [step for step in record_steps(settings.steps, POINTS) if step < len(real)]
    runs = ensemble_size(modes, settings)
    monitor.enter(linearised(problem, settings, aggregator))
    ensemble = run_ensemble(
        modes,
        method,
        settings.lr,
        record,
        runs,
        GAUSSIAN,
        settings.seed + 2,
        count,
        lambda step: monitor.progress(step, settings.steps),
        largest,
    )
    mean = predicted[record]
    chance = np.abs(ensemble.losses - mean[:, None]) / mean[:, None] > LEFT
    firsts = sorted(float(record[int(np.argmax(run))]) if run.any() else np.inf for run in chance.T)
    middle = firsts[len(firsts) // 2]
    ordered = np.sort(ensemble.losses, axis=1)
    worst = int(np.argmax(np.abs(deviation)))
    return {
        "aggregator": aggregator,
        "directions": count,
        "factor": plain(moments.mean),
        "steps": record,
        "losses": plain(real[record]),
        "predicted": plain(mean),
        "low": plain(ordered[:, runs // 10]),
        "high": plain(ordered[:, runs - 1 - runs // 10]),
        "deviation": plain(deviation[record]),
        "threshold": LEFT,
        "left_at": int(left[0]) if len(left) else None,
        "left_deviation": plain(deviation[left[0]]) if len(left) else None,
        "worst": plain(deviation[worst]),
        "worst_step": worst,
        "final": plain(deviation[-1]),
        "final_step": len(real) - 1,
        "finished": len(real) == settings.steps + 1,
        "linear_runs": runs,
        "linear_left_share": plain(np.isfinite(firsts).mean()),
        "linear_left_at": plain(middle),
    }


def best_signs(gradient: np.ndarray, directions: int, draws: int = 4_000, seed: int = 0) -> np.ndarray:
    """Draws of q = max_k (z_k·e)² for K directions of signs and e = gradient/|gradient|, [draws].

    Where the gradient has few large coordinates, z·e is bounded and its greatest square smaller than a normal's.
    """
    generator = np.random.default_rng((seed, 3))
    along = (gradient / np.linalg.norm(gradient)).astype(np.float32)
    found = []
    for _ in range(draws // 100):
        signs = generator.integers(0, 2, (100 * directions, len(along)), dtype=np.int8)
        slopes = 2 * (signs.astype(np.float32) @ along) - along.sum()
        found.append((slopes.reshape(100, directions) ** 2).max(1))
    return np.concatenate(found)


def _moments(problem: Problem, directions: int, largest: np.ndarray | None) -> StepMoments:
    if largest is None:
        return step_moments(problem.size, "rademacher", directions)
    first, second = float(largest.mean()), float((largest**2).mean())
    # As for Gaussian directions; that the other coordinates are isotropic is nearly true of signs.
    return StepMoments(first, second - first, first, 0.0, problem.size)
