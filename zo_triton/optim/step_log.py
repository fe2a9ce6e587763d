"""What an optimizer tells a log, whatever keeps it."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from torch import Tensor


class StepLog(Protocol):
    """Attached as ``log``; see :class:`zo_triton.ReplayLog`."""

    path: Path

    def check(self) -> None:
        """Called before a step measures; an error refuses the step, because no replay could repeat it."""

    def append(self, coefficients: Tensor, compiled: bool = False) -> None:
        """Called with a step's coefficients, [K] float32, before the weights move; an error stops the step."""
