"""Waits until other programs leave the cores alone, and tells how many they kept, before a run and during it."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from time import monotonic

from benchmarks.report.load import SHARE

PATIENCE = 30.0
"""Seconds to wait for quiet: what an installation leaves behind has ended by then."""

SAMPLE = 2.0
"""Seconds that one look takes, in which this process sleeps."""


def cores_of_others(seconds: float = SAMPLE) -> float | None:
    """How many cores other programs keep busy right now.

    The load average would count what has just ended, often the installation of this very program.

    Args:
        seconds: How long to look; the caller sleeps meanwhile.

    Returns:
        Cores, 1.0 for one that is never free; None where psutil is missing.
    """
    try:
        import psutil
    except ImportError:
        return None
    return round(psutil.cpu_percent(seconds) / 100 * (os.cpu_count() or 1), 2)


class Neighbours:
    """Counts the processor time that other programs take from now on."""

    def __init__(self) -> None:
        self._began, self._taken = monotonic(), _taken_by_others()

    def cores(self) -> float | None:
        """How many cores they have kept busy on average; None where psutil is missing."""
        if self._taken is None or (taken := _taken_by_others()) is None:
            return None
        # Clocks tick in hundredths of a second, so that a moment's difference may come out below nothing.
        return round(max(0.0, taken - self._taken) / max(monotonic() - self._began, SAMPLE), 2)


def _taken_by_others() -> float | None:
    """Seconds of all cores since the machine began, without those of this process and its children."""
    try:
        import psutil
    except ImportError:
        return None
    machine, me = psutil.cpu_times(), psutil.Process()
    # A guest's time is part of the user's already.
    idle = ("idle", "iowait", "guest", "guest_nice")
    taken = sum(value for name, value in machine._asdict().items() if name not in idle)
    mine = sum(me.cpu_times()[:4])
    for child in me.children(recursive=True):
        with suppress(psutil.Error):
            mine += sum(child.cpu_times()[:4])
    return taken - mine


def wait_for_quiet(say: Callable[[str], None], patience: float = PATIENCE) -> float | None:
    """Waits for others to finish, at most so long.

    Args:
        say: Told once that it waits, and why.
        patience: Seconds until it goes on anyway.

    Returns:
        The last look's cores of others; above a share ``SHARE`` of all, timings are not to be trusted.
    """
    until, told = monotonic() + patience, False
    allowed = SHARE * (os.cpu_count() or 1)
    while (cores := cores_of_others()) is not None and cores > allowed and monotonic() < until:
        if not told:
            say(f"other programs keep {cores:.1f} cores busy: waiting up to {patience:.0f} s for quiet")
        told = True
    return cores
