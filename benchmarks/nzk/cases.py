"""One case of an experiment, from its problem to its part of the record."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import torch

from benchmarks.nzk import kernels
from benchmarks.nzk.ensemble import run_ensemble
from benchmarks.nzk.numbers import plain, record_steps, snapshot_steps
from benchmarks.nzk.prediction import (
    best_stable_rate,
    mean_losses,
    mean_path_losses,
    method_moments,
    rate_at,
    stable_limit,
)
from benchmarks.nzk.problems import Modes, Problem
from benchmarks.nzk.settings import Case, Settings
from benchmarks.nzk.walks import function_walk, parameter_walk
from zo_triton import nzk
from zo_triton.ops import use_engine

POINTS = 160
"""Recorded steps of a curve."""

SMALLEST_ENSEMBLE, LARGEST_ENSEMBLE = 32, 400

LABELS = {
    "first": "first order",
    "independent": "ZO, independent vectors",
    "shared": "ZO, one shared vector",
    "update": "ordinary ZO step",
}


class Monitor(Protocol):
    """Who is told how an experiment gets on."""

    def say(self, message: str) -> None:
        """What a reader must know."""

    def expect(self, plan: Mapping[str, float]) -> None:
        """Seconds of all that will be entered."""

    def enter(self, part: str) -> None:
        """What runs now."""

    def progress(self, done: int, total: int) -> None:
        """How far the latest thing said has come."""


def stability(problem: Problem, case: Case, settings: Settings) -> list[dict[str, Any]]:
    """The stable limit of each method, and whether the experiment's learning rate keeps below it."""
    found = []
    for method, label in LABELS.items():
        moments = method_moments(method, problem.size, case.distribution, settings.directions)
        limit = stable_limit(problem.modes, moments)
        found.append(
            {
                "method": method,
                "label": label,
                "factor": plain(moments.mean),
                "limit": plain(limit),
                "stable": bool(settings.lr < limit),
            }
        )
    return found


def run_case(
    problem: Problem,
    case: Case,
    settings: Settings,
    engine: str | None,
    device: torch.device,
    monitor: Monitor,
) -> dict[str, Any]:
    """Kernels, curves, snapshots and tables of one case."""
    modes, noise, count = problem.modes, case.distribution, settings.directions
    record = sorted({*record_steps(settings.steps, POINTS), *snapshot_steps(settings.steps)})
    total = settings.steps

    def stage(message: str) -> Any:
        monitor.enter(f"{problem.name}: {message}")
        return lambda step: monitor.progress(step, total)

    stage("kernels")
    factors, means = kernels.factor_rows(problem, case, settings)
    stage("measured acceleration")
    acceleration = kernels.acceleration(problem, case, settings)

    outputs = {
        "first": nzk.evolve(problem.outputs, problem.targets, problem.ntk, settings.lr, record),
    }
    for coupling in ("independent", "shared"):
        outputs[coupling] = function_walk(
            problem,
            noise,
            coupling,
            count,
            settings.lr,
            record,
            settings.seed,
            stage(f"{coupling} vectors, function space"),
        )
    agreement = None
    if noise.field is not None:
        tell = stage("shared vectors, parameter space")
        with use_engine(engine):
            outputs["fused"] = parameter_walk(
                problem, noise, count, settings.lr, record, settings.seed, device, tell
            )
        agreement = _agreement(problem, record, outputs["fused"], outputs["shared"])

    methods: list[dict[str, Any]] = []
    runs = ensemble_size(modes, settings)
    for coupling in ("independent", "shared"):
        moments = method_moments(coupling, problem.size, noise, count)
        tell = stage(f"{coupling} vectors, {runs} runs")
        ensemble = run_ensemble(
            modes, coupling, settings.lr, record, runs, noise, settings.seed + 1, count, tell
        )
        low, high = _quantiles(ensemble.losses)
        methods.append(
            {
                "method": coupling,
                "runs": runs,
                "mean": plain(ensemble.losses.mean(1)),
                "low": plain(low),
                "high": plain(high),
                "predicted_mean": plain(mean_losses(modes, moments, settings.lr, record)),
                "predicted_path": plain(mean_path_losses(modes, moments, settings.lr, record)),
                "ratio": plain(ensemble.ratio.mean()),
                "ratio_error": plain(ensemble.ratio.std(ddof=1) / np.sqrt(runs)),
            }
        )
    stage("learning rates")
    return {
        "name": problem.name,
        "note": problem.note,
        "distribution": noise.label,
        "samples": problem.samples,
        "size": problem.size,
        "rank": modes.rank,
        "floor": plain(modes.floor),
        "largest": plain(modes.curvatures[0]),
        "trace": plain(modes.curvatures.sum()),
        "stability": stability(problem, case, settings),
        "factors": factors,
        "acceleration": acceleration,
        "kernels": kernels.pictures(problem, factors, means),
        "steps": record,
        "curves": {name: plain(_losses(problem, f)) for name, f in outputs.items()},
        "ensembles": methods,
        "agreement": agreement,
        "snapshots": _snapshots(problem, record, settings.steps, outputs),
        "rates": _rates(problem, case, settings),
    }


def ensemble_size(modes: Modes, settings: Settings) -> int:
    """As many runs as the settings pay for, within reason."""
    return min(LARGEST_ENSEMBLE, max(SMALLEST_ENSEMBLE, settings.run_values // modes.rank))


def _losses(problem: Problem, outputs: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore", invalid="ignore"):
        return ((outputs - problem.targets) ** 2).sum(1) / (2 * problem.samples)


def _agreement(
    problem: Problem, record: list[int], fused: np.ndarray, function: np.ndarray
) -> dict[str, Any]:
    """The largest |f_fused - f| relative to the larger of |f| and |f - y|, as ``nzk.check`` measures it."""
    with np.errstate(over="ignore", invalid="ignore"):
        size = np.maximum(
            np.linalg.norm(function, axis=1), np.linalg.norm(function - problem.targets, axis=1)
        )
        gap = np.linalg.norm(fused - function, axis=1) / size
    seen = np.isfinite(gap)
    worst = int(np.argmax(np.where(seen, gap, -1.0)))
    return {"worst": plain(gap[worst]), "step": record[worst], "compared": int(seen.sum())}


def _quantiles(losses: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    # Lost runs are infinite: sorted last, so that no interpolation can turn them into NaN.
    ordered = np.sort(losses, axis=1)
    count = losses.shape[1]
    return ordered[:, count // 10], ordered[:, count - 1 - count // 10]


def _snapshots(
    problem: Problem, record: list[int], steps: int, outputs: dict[str, np.ndarray]
) -> dict[str, Any]:
    order = np.argsort(problem.across, kind="stable")
    chosen = snapshot_steps(steps)
    places = [record.index(step) for step in chosen]
    return {
        "label": problem.across_label,
        "across": plain(problem.across[order], digits=5),
        "targets": plain(problem.targets[order], digits=5),
        "steps": chosen,
        "functions": {
            name: plain(outputs[name][places][:, order], digits=5)
            for name in ("first", "independent", "shared")
        },
    }


def _rates(problem: Problem, case: Case, settings: Settings) -> list[dict[str, Any]]:
    """Each method at the experiment's η and at its own best stable one, by the closed form."""
    rows = []
    for method, label in LABELS.items():
        moments = method_moments(method, problem.size, case.distribution, settings.directions)
        limit, best = best_stable_rate(problem.modes, moments, settings.steps)
        row: dict[str, Any] = {"method": method, "label": label, "factor": plain(moments.mean)}
        row["limit"] = plain(limit)
        for name, lr in (("equal", settings.lr), ("best", best)):
            rate = rate_at(problem.modes, moments, lr, settings.steps)
            row[name] = {
                "lr": plain(rate.lr), "half": rate.half, "tenth": rate.tenth, "final": plain(rate.final)
            }  # fmt: skip
        rows.append(row)
    return rows
