"""Warnings that point at the user's line, however deep in the library their cause is found."""

from __future__ import annotations

import contextlib
import functools
import sys
import warnings
from importlib.util import find_spec
from pathlib import Path

_OURS = str(Path(__file__).parent)


@functools.cache
def _passed_over() -> tuple[str, ...]:
    """Where a line is nobody's own: this library, torch, and the wrappers that both are called through."""
    torch = find_spec("torch")
    folders = [_OURS, *((torch and torch.submodule_search_locations) or ())]
    return (*(f"{folder}/" for folder in folders), contextlib.__file__, functools.__file__)


def warn(message: str, category: type[Warning]) -> None:
    """Warns at the innermost line that is not the library's or torch's.

    In a closure that is the call which the warning is about, elsewhere the call of the library.

    Args:
        message: What happened, and the remedy.
        category: Its class.
    """
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_passed_over()):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)
