"""Calls that may never return, with an end to the waiting."""

from __future__ import annotations

from collections.abc import Callable
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, TypeVar

Result = TypeVar("Result")


def within(seconds: float, function: Callable[..., Result], *arguments: Any) -> Result:
    """What a function returns or raises, if it does so soon enough.

    A process group's store waits for its server without end, and in compiled code, where no signal is heard. So it
    is called in a thread of its own, which is left alone with it when the time is over; the process can end without
    it.

    Args:
        seconds: How long to wait.
        function: What is called.
        *arguments: Its.

    Raises:
        TimeoutError: It is still at it.
    """
    answers: SimpleQueue[tuple[bool, Any]] = SimpleQueue()

    def call() -> None:
        try:
            answers.put((True, function(*arguments)))
        except BaseException as error:
            answers.put((False, error))

    Thread(target=call, name="zo_triton waits", daemon=True).start()
    try:
        has_returned, result = answers.get(timeout=seconds)
    except Empty:
        raise TimeoutError(f"no answer within {seconds:g} s") from None
    if not has_returned:
        raise result
    return result
