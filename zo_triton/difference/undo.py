"""What closures have changed while a step was measured is put back if the step fails later."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

_noted: ContextVar[list[Callable[[], None]] | None] = ContextVar("zo_triton_undo", default=None)


class taken_back:  # noqa: N801 (used like a function)
    """If the block raises, all that was noted in it by :func:`on_failure` is called, the latest first.

    If it does not, an outer block of this kind may still have to.
    """

    def __enter__(self) -> None:
        self._mine: list[Callable[[], None]] = []
        self._outer = _noted.get()
        self._token = _noted.set(self._mine)

    def __exit__(self, kind: type[BaseException] | None, *error: Any) -> None:
        try:
            if kind is not None:
                for undo in reversed(self._mine):
                    undo()
            elif self._outer is not None:
                self._outer += self._mine
        finally:
            _noted.reset(self._token)


def on_failure(undo: Callable[[], None]) -> None:
    """Notes what takes something back; outside of :func:`taken_back` it stays as it is."""
    noted = _noted.get()
    if noted is not None:
        noted.append(undo)
