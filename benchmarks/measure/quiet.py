"""Waits until other programs leave the cores alone, and tells how many they kept where they don't."""

from __future__ import annotations

import os
from collections.abc import Callable
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
