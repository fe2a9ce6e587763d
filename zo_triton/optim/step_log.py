"""What an optimizer tells a log, whatever keeps it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
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

    def take_back(self) -> None:
        """Called where the step that was appended last could not be taken: its record is none."""


@contextmanager
def written_down(log: StepLog | None, coefficients: Tensor | None, compiled: bool = False) -> Iterator[None]:
    """A step's record is in the log, if there is one, before the block moves anything, and only if it does.

    Args:
        log: The log.
        coefficients: [K] float32; None for a step that no log can hold.
        compiled: Whether the move is one compiled call.
    """
    if log is None or coefficients is None:
        yield
        return
    log.append(coefficients, compiled)
    try:
        yield
    except BaseException:
        log.take_back()
        raise
