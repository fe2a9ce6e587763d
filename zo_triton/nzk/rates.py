"""Methods compared fairly for a budget of steps: each at the learning rate that serves it best there."""

from __future__ import annotations

from math import isfinite
from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar

from zo_triton.nzk.arrays import as_matrix, check_count
from zo_triton.nzk.second_moment import spread
from zo_triton.nzk.stability import max_stable_lr


def best_lr(
    f0: Any,
    y: Any,
    features: Any,
    steps: int,
    distribution: Any = "gaussian",
    coupling: str = "shared",
    num_directions: int = 1,
    kernel: str = "update",
) -> tuple[float, float]:
    """The learning rate that makes the expected loss least after so many steps, and that loss.

    For a budget of steps this compares methods more fairly than :func:`zo_triton.nzk.best_rate`, whose long run
    is ruled by the smallest eigenvalue.

    Args:
        f0: [n] outputs at step 0.
        y: [n] targets.
        features: X, [n, d].
        steps: The budget, at least 1.
        distribution: Of the directions.
        coupling: "shared" or "independent".
        num_directions: K.
        kernel: "update" or "nzk".

    Returns:
        η, and E (1/2n)|f - y|² after the steps.

    Raises:
        TypeError: ``steps`` is no integer.
        ValueError: As :func:`zo_triton.nzk.spread` and :func:`zo_triton.nzk.max_stable_lr`, or every feature is
            zero.
    """
    check_count(steps, "steps")
    rows = as_matrix(features, "features")
    values = np.linalg.eigvalsh(rows @ rows.T / len(rows))
    limit = max_stable_lr(values, num_directions, coupling, kernel, rows.shape[1], distribution)
    if not isfinite(limit):
        raise ValueError("every feature is zero: there is nothing to learn, so no rate is best.")

    def loss(share: float) -> float:
        lr = share * limit
        square = spread(f0, y, rows, lr, [steps], distribution, coupling, num_directions, kernel)
        return float(square[0]) / (2 * len(rows))

    found = minimize_scalar(loss, bounds=(1e-6, 1.0), method="bounded", options={"xatol": 1e-4})
    return float(found.x) * limit, float(found.fun)
