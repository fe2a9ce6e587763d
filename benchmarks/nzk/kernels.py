"""Expected and empirical kernels of a problem: the table of factors and the pictures."""

from __future__ import annotations

from typing import Any
from zlib import crc32

import numpy as np

from benchmarks.nzk.ensemble import measure_ratio
from benchmarks.nzk.numbers import plain
from benchmarks.nzk.problems import Problem
from benchmarks.nzk.settings import Case, Settings
from zo_triton import nzk

BATCHES = 25
"""Independent estimates that a factor's standard error comes from."""

VISIBLE = 1e-3
"""Modes below this share of the largest eigenvalue are left out of a factor: they are all rounding."""

LARGEST_PICTURE = 50
"""Pixels a side of a kernel in the record; larger kernels are averaged in square blocks."""


def factor_rows(
    problem: Problem, case: Case, settings: Settings
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The table predicted, measured, z; and the empirical kernels by coupling.

    Returns:
        One row a kernel, and {"shared": ..., "independent": ...} with the Monte Carlo means [n, n].
    """
    kinds = [("nzk", "shared", settings.directions), ("nzk", "independent", settings.directions)]
    kinds.append(("update", "shared", settings.directions))
    if case.kind == "linear" and settings.directions == 1:
        kinds.append(("nzk", "shared", 4))
    law, rows, means = case.distribution.law(), [], {}
    for number, (kernel, coupling, directions) in enumerate(kinds):
        estimates = [
            nzk.empirical(
                problem.features,
                law,
                coupling,
                directions,
                kernel,
                num_draws=max(2, settings.draws // BATCHES),
                seed=_seed(settings.seed, case, number, batch),
            )
            for batch in range(BATCHES)
        ]
        factors = np.array([_factor(problem, estimate.mean) for estimate in estimates])
        measured, error = float(factors.mean()), float(factors.std(ddof=1) / np.sqrt(BATCHES))
        predicted = nzk.factor(problem.size, law, coupling, directions, kernel)
        rows.append(
            {
                "kernel": kernel,
                "coupling": coupling,
                "directions": directions,
                "predicted": plain(predicted),
                "measured": plain(measured),
                "standard_error": plain(error),
                "z": plain((measured - predicted) / error),
                "draws": BATCHES * max(2, settings.draws // BATCHES),
            }
        )
        if number < 2:
            # Batches of equal size: their spread gives each entry's error.
            stack = np.array([estimate.mean for estimate in estimates])
            means[coupling] = (stack.mean(0), stack.std(0, ddof=1) / np.sqrt(BATCHES))
    return rows, means


def pictures(problem: Problem, rows: list[dict[str, Any]], means: dict[str, Any]) -> list[dict[str, Any]]:
    """Expected kernel, empirical kernel and their difference, small enough for a record."""
    order = np.argsort(problem.across, kind="stable")
    found = []
    for row in rows[:2]:
        mean, error = means[row["coupling"]]
        expected = row["predicted"] * problem.ntk
        difference = mean - expected
        found.append(
            {
                "coupling": row["coupling"],
                "factor": row["predicted"],
                "block": len(order) // _pixels(len(order)),
                "order": problem.across_label,
                "expected": _shrunk(expected, order),
                "empirical": _shrunk(mean, order),
                "relative_difference": plain(np.linalg.norm(difference) / np.linalg.norm(expected)),
                "relative_error": plain(np.linalg.norm(error) / np.linalg.norm(expected)),
            }
        )
    return found


def acceleration(problem: Problem, case: Case, settings: Settings) -> dict[str, Any]:
    """Shared against independent vectors at equal η: the ratio of the two measured factors."""
    measured = {
        coupling: measure_ratio(
            problem.modes,
            coupling,
            case.distribution,
            settings.directions,
            settings.regression_draws,
            _seed(settings.seed, case, 0, 0),
        )
        for coupling in ("shared", "independent")
    }
    (shared, shared_error), (independent, independent_error) = measured.values()
    ratio = shared / independent
    error = ratio * np.hypot(shared_error / shared, independent_error / independent)
    law = case.distribution.law()
    predicted_shared, predicted_independent = (
        nzk.factor(problem.size, law, coupling, settings.directions) for coupling in measured
    )
    predicted = predicted_shared / predicted_independent
    return {
        "draws": settings.regression_draws,
        "shared": plain(shared),
        "shared_error": plain(shared_error),
        "shared_predicted": plain(predicted_shared),
        "independent": plain(independent),
        "independent_error": plain(independent_error),
        "independent_predicted": plain(predicted_independent),
        "ratio": plain(ratio),
        "ratio_error": plain(error),
        "ratio_predicted": plain(predicted),
    }


def _seed(seed: int, case: Case, number: int, batch: int) -> int:
    # Cases of one experiment differ in scale alone: with the same draws they would err alike.
    return (seed * 1_000_003 + crc32(case.name.encode()) + number * BATCHES + batch) % 2**32


def _factor(problem: Problem, kernel: np.ndarray) -> float:
    """The multiple of the NTK that a kernel is, every visible mode weighing the same."""
    modes = problem.modes
    squares = modes.values**2
    seen = squares >= VISIBLE * squares[0]
    left = modes.left[:, seen]
    return float((np.einsum("ni,nm,mi->i", left, kernel, left, optimize=True) / squares[seen]).mean())


def _pixels(samples: int) -> int:
    """The largest divisor of the number of samples that a picture may have."""
    return max(side for side in range(1, LARGEST_PICTURE + 1) if samples % side == 0)


def _shrunk(kernel: np.ndarray, order: np.ndarray) -> list[list[float | None]]:
    side = _pixels(len(order))
    block = len(order) // side
    sorted_kernel = kernel[np.ix_(order, order)]
    return plain(sorted_kernel.reshape(side, block, side, block).mean((1, 3)), digits=4)
