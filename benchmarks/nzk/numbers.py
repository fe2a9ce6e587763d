"""Numbers on their way into a record."""

from __future__ import annotations

from math import isfinite
from typing import Any

import numpy as np


def plain(value: Any, digits: int = 6) -> Any:
    """Python floats of so many significant digits, lists for arrays, None for NaN and infinity."""
    if value is None:
        return None
    if isinstance(value, (np.ndarray, list, tuple)):
        return [plain(one, digits) for one in value]
    number = float(value)
    return float(f"{number:.{digits}g}") if isfinite(number) else None


def record_steps(steps: int, points: int) -> list[int]:
    """Step 0, then about ``points`` steps in even ratios up to the last one, which is always there."""
    return sorted({0, *np.unique(np.round(np.geomspace(1, steps, points)).astype(int)).tolist(), steps})


def snapshot_steps(steps: int) -> list[int]:
    """The start, the end, and a hundredth-and-a-bit and a sixteenth of the way: 0, 100, 1000, 16000."""
    return sorted({0, max(1, steps // 160), max(1, steps // 16), steps})
