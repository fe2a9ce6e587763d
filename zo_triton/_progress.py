"""How a long command shows what it does and how much is left: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from time import monotonic
from typing import Any

NOTE = "note: "
"""Starts a message that a reader must not miss: it stays on the screen."""

EVERY = 50

SETTLING = 60.0
"""Seconds as planned that the first parts are averaged with: a short one tells little of a machine's pace."""


class Monitor:
    """Is told how a command gets on, and shows it in lines: one a message, its part of the plan before it.

    Args:
        plan: Expected seconds of each part, in order; empty where nobody knows.
    """

    def __init__(self, plan: Mapping[str, float] | None = None) -> None:
        self.plan = dict(plan or {})
        self._begun: list[str] = []
        self._spent = self._expected = 0.0
        self._since = monotonic()
        self._first: tuple[int, float] | None = None

    def expect(self, plan: Mapping[str, float]) -> None:
        """Takes a plan that is known only now."""
        self.plan = dict(plan)

    def enter(self, part: str) -> None:
        """Begins a part of the plan that is called by what it does, and says so."""
        self.begin(part)
        self.say(part)

    def begin(self, part: str) -> None:
        """Begins a part of the plan; the one before is over."""
        if self._begun:
            self._spent += monotonic() - self._since
            self._expected += self.plan[self._begun[-1]]
        self._begun.append(part)
        self._since = monotonic()

    def say(self, message: str) -> None:
        """What runs now."""
        sys.stdout.write(f"{'' if message.startswith(NOTE) else self.left()}{message}\n")
        sys.stdout.flush()

    def progress(self, done: int, total: int, detail: str = "") -> None:
        """How far it has come; of a line's details the first, the last and every :data:`EVERY`-th are shown."""
        if self._first is None or done <= self._first[0]:
            self._first = done, monotonic()
        if detail and (done in (1, total) or done % EVERY == 0):
            sys.stdout.write(f"{detail}{self._rest(done, total)}\n")
            sys.stdout.flush()

    def _rest(self, done: int, total: int) -> str:
        """``, 40 s left`` at the pace since the first that was told of; nothing at either end."""
        assert self._first is not None
        begun, since = self._first
        if not begun < done < total:
            return ""
        return f", {spell((monotonic() - since) / (done - begun) * (total - done))} left"

    def left(self) -> str:
        """``[2 of 7, 3 min left] ``; nothing without a plan."""
        if not self._begun:
            return ""
        pace = (self._spent + SETTLING) / (self._expected + SETTLING)
        later = sum(seconds for part, seconds in self.plan.items() if part not in self._begun)
        rest = max(0.0, pace * self.plan[self._begun[-1]] - (monotonic() - self._since))
        return f"[{len(self._begun)} of {len(self.plan)}, {spell(rest + pace * later)} left] "


class Bar(Monitor):
    """The latest message beside a bar; notes stay above it.

    Args:
        progress: A started rich progress display.
        plan: As for :class:`Monitor`.
    """

    def __init__(self, progress: Any, plan: Mapping[str, float] | None = None) -> None:
        super().__init__(plan)
        self._display = progress
        self._task = progress.add_task("starting", total=None)

    def say(self, message: str) -> None:
        """Shows the message beside an empty bar."""
        if message.startswith(NOTE):
            self._display.console.print(message, highlight=False, markup=False)
        else:
            self._display.reset(self._task, description=_unmarked(self.left() + message), total=None)

    def progress(self, done: int, total: int, detail: str = "") -> None:
        """Moves the bar, the detail beside it."""
        shown = {"description": _unmarked(detail)} if detail else {}
        self._display.update(self._task, completed=done, total=total, **shown)


@contextmanager
def monitor(plan: Mapping[str, float] | None = None) -> Iterator[Monitor]:
    """The monitor that suits where the output goes: lines, too, where rich is not installed."""
    try:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )
    except ModuleNotFoundError:
        yield Monitor(plan)
        return
    console = Console()
    if not console.is_terminal:
        yield Monitor(plan)
        return
    with Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        TextColumn("left"), TimeRemainingColumn(), console=console, transient=True,
    ) as display:  # fmt: skip
        yield Bar(display, plan)


def spell(seconds: float) -> str:
    """Minutes, or seconds up to five."""
    return f"{seconds / 60:.0f} min" if seconds > 90 else f"{5 * round(seconds / 5)} s"


def _unmarked(text: str) -> str:
    """Brackets that rich must not read as its own marks."""
    return text.replace("[", r"\[")
