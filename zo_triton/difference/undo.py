"""What closures have changed while a step was measured is put back if the step fails later."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_noted: ContextVar[list[Callable[[], None]] | None] = ContextVar("zo_triton_undo", default=None)


@contextmanager
def taken_back() -> Iterator[None]:
    """If the block raises, all that was noted in it by :func:`on_failure` is called, the latest first.

    If it does not, an outer block of this kind may still have to.
    """
    noted: list[Callable[[], None]] = []
    outer = _noted.get()
    token = _noted.set(noted)
    try:
        yield
        if outer is not None:
            outer += noted
    except BaseException:
        for undo in reversed(noted):
            undo()
        raise
    finally:
        _noted.reset(token)


def on_failure(undo: Callable[[], None]) -> None:
    """Notes what takes something back; outside of :func:`taken_back` it stays as it is."""
    noted = _noted.get()
    if noted is not None:
        noted.append(undo)
