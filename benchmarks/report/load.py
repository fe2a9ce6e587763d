"""Whether other programs kept a machine busy, so that its times can't be compared."""

from __future__ import annotations

from typing import Any

SHARE = 0.15
"""Of the cores; above it other programs spoil timings: threads wait for a core in every region."""


def cores_of_others(environment: dict[str, Any]) -> float | None:
    """How many cores other programs kept busy, before the run or on average during it; None if it wasn't told."""
    told = (environment.get(f"cores busy {when}") for when in ("before", "meanwhile"))
    return max((cores for cores in told if cores is not None), default=None)


def was_busy(environment: dict[str, Any]) -> bool:
    """Whether a record's times were taken beside other programs; older records don't tell, and count as quiet."""
    cores = cores_of_others(environment)
    return cores is not None and cores > SHARE * environment["cores"]
