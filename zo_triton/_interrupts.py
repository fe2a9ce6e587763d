"""When Ctrl-C is heard: at once in a user's own code, and in the library where nothing is half done.

Python raises KeyboardInterrupt between any two lines of the main thread, also those that undo something. So while a
step is under way another handler only notes that SIGINT came; the program's own is called where it can do no harm:
in the closure, at the end of a torch function that it calls, and between two parts of the work. In other threads
nothing arrives, and nothing here does anything.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from types import CodeType, FrameType, FunctionType
from typing import Any, TypeVar, cast

# CPython's module beneath: the one above turns handlers into names, which takes longer than all else here.
_signal: Any = sys.modules.get("_signal", signal)

Result = TypeVar("Result")
Function = TypeVar("Function", bound=Callable[..., Any])


class Gate:
    """Stands between SIGINT and the program's handler of it; there is one, for the main thread.

    Attributes:
        installed: Whether it stands there now.
        shut: Whether it only notes what comes.
        thread: That of the step, by its number.
    """

    def __init__(self) -> None:
        self.installed = self.shut = self._pending = False
        self.hear: Callable[[int, FrameType | None], Any] = self._hear
        self.thread = 0
        self._program: Any = None

    def install(self, program: Any) -> None:
        """Takes the place of the program's handler, and is shut."""
        self._program, self._pending, self.shut = program, False, True
        self.thread = threading.get_ident()
        _signal.signal(signal.SIGINT, self.hear)
        self.installed = True

    def remove(self) -> None:
        """Gives the place back, and what has come meanwhile."""
        self.forsake()
        self.deliver()

    def forsake(self) -> None:
        """Gives the place back."""
        self.installed = False
        _signal.signal(signal.SIGINT, self._program)

    def deliver(self) -> None:
        """Calls the program's handler if a signal was noted."""
        if self._pending:
            self._pending = False
            self._program(signal.SIGINT, None)

    def turn(self, shut: bool) -> None:
        """Shuts the gate, or opens it and delivers."""
        self.shut = shut
        if not shut:
            self.deliver()

    def waiting(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """Calls a function of the library, at whose end SIGINT is heard again if it was before."""
        before, self.shut = self.shut, True
        try:
            return function(*arguments)
        finally:
            self.shut = before
            if self._pending and not before:
                self.deliver()

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if self.shut or _is_unbroken(frame):
            self._pending = True
        else:
            self._program(number, frame)


_gate = Gate()


def _open_in_child() -> None:
    """In a child that another thread has forked: no step of its own will ever open the gate."""
    if _gate.installed and threading.get_ident() != _gate.thread:
        _gate.forsake()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_open_in_child)
_unbroken: set[CodeType] = set()


def unbroken(function: Function) -> Function:
    """Marks a function, written in Python, that SIGINT may not end, wherever it is called: it waits.

    So must what runs when a weak reference dies, from where no error gets through, and what a generator's end
    finishes much later.
    """
    _unbroken.add(cast(FunctionType, function).__code__)
    return function


def _is_unbroken(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code in _unbroken:
            return True
        frame = frame.f_back
    return False


class held_back:  # noqa: N801 (used like a function)
    """SIGINT waits until the block has ended, or until :func:`listening` or :func:`check` lets it through."""

    def __enter__(self) -> None:
        self._is_outer = self._is_inner = False
        if threading.current_thread() is not threading.main_thread():
            return
        program = _signal.getsignal(signal.SIGINT)
        if program is _gate.hear:
            self._before, self._is_inner = _gate.shut, True
            _gate.shut = True
        elif callable(program):  # neither the system's default nor ignored
            self._is_outer = True
            _gate.install(program)

    def __exit__(self, *error: Any) -> None:
        if self._is_outer:
            _gate.remove()
        elif self._is_inner:
            _gate.turn(self._before)


def gate() -> Gate | None:
    """The gate, if it stands and this is the thread that it stands for."""
    here = _gate.installed and threading.current_thread() is threading.main_thread()
    return _gate if here else None


def listening(function: Callable[..., Result], *arguments: Any) -> Result:
    """Calls a user's function, in which SIGINT is heard at once."""
    present = gate()
    if present is None:
        return function(*arguments)
    present.turn(shut=False)
    try:
        return function(*arguments)
    finally:
        present.shut = True


def check() -> None:
    """Lets through what was held back: a place at which a step may end, and will be taken back."""
    present = gate()
    if present is not None:
        present.deliver()
