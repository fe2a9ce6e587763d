"""Fair timing in one process: contenders take turns, so that a busy machine slows them all alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from statistics import median
from time import perf_counter, sleep

import torch

ENOUGH = 3
"""Calls from which a median tells something."""


def alternate(
    actions: Sequence[Callable[[], object]],
    seconds: float,
    burst_seconds: float = 0.05,
    warm_up: int = 2,
    pause_seconds: float = 0.01,
) -> list[list[float]]:
    """Times every action, in turns of short bursts, until the time is used up.

    A burst runs one action at least once and until ``burst_seconds`` have passed, so that quick actions are
    measured as they run in a training loop, one after the other, and often enough. An action whose calls are longer
    than a burst waits, once it was timed :data:`ENOUGH` times, until the others have had as much time.

    Args:
        actions: Take nothing.
        seconds: For all of them together; each action has at least one turn.
        burst_seconds: Length of a turn.
        pause_seconds: Before each turn: threads of the contender before, which spin for some milliseconds, go to
            sleep.
        warm_up: Untimed calls of each action before the first turn, where compilation happens.

    Returns:
        For each action the seconds of each call.

    Raises:
        ValueError: The time is not positive.
    """
    if not seconds > 0:
        raise ValueError(f"seconds must be positive, got {seconds}.")
    for action in actions:
        for _ in range(warm_up):
            action()
    times: list[list[float]] = [[] for _ in actions]
    deadline = perf_counter() + seconds
    for round_number in count():
        for action, taken in zip(actions, times, strict=True):
            slow = len(taken) >= ENOUGH and min(taken) > burst_seconds > 0
            if slow and sum(taken) > round_number * burst_seconds:
                continue
            sleep(pause_seconds)
            turn = perf_counter()
            while True:
                start = perf_counter()
                action()
                end = perf_counter()
                taken.append(end - start)
                if end - turn >= burst_seconds:
                    break
        if perf_counter() >= deadline:
            break
    return times


def milliseconds(times: Sequence[float]) -> float:
    """The median, in milliseconds, with four significant digits."""
    return round_digits(1000 * median(times))


def round_digits(value: float, digits: int = 4) -> float:
    """Significant digits worth keeping in a record."""
    return float(f"{value:.{digits}g}")


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Torch uses ``count`` threads inside."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
