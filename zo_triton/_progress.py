"""How the command line shows a long experiment: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

NOTE = "note: "
"""Starts a message that a reader must not miss: it stays on the screen."""


class Lines:
    """One line a message; progress is not shown."""

    def say(self, message: str) -> None:
        """Prints the message."""
        sys.stdout.write(f"{message}\n")
        sys.stdout.flush()

    def progress(self, done: int, total: int) -> None:
        """Shows nothing."""


class Bar:
    """The latest message beside a bar; notes stay above it.

    Args:
        progress: A started rich progress display.
    """

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task: Any = progress.add_task("starting", total=None)

    def say(self, message: str) -> None:
        """Shows the message beside an empty bar."""
        if message.startswith(NOTE):
            self._progress.console.print(message, highlight=False, markup=False)
        else:
            self._progress.reset(self._task, description=message, total=None)

    def progress(self, done: int, total: int) -> None:
        """Moves the bar."""
        self._progress.update(self._task, completed=done, total=total)


@contextmanager
def monitor(console: Console) -> Iterator[Lines | Bar]:
    """The monitor that suits where the output goes."""
    if not console.is_terminal:
        yield Lines()
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        yield Bar(progress)
