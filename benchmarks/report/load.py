"""Whether other programs kept a machine busy, so that its times can't be compared."""

from __future__ import annotations

from typing import Any

SHARE = 0.15
"""Of the cores; above it other programs spoil timings: threads wait for a core in every region."""


def was_busy(environment: dict[str, Any]) -> bool:
    """Whether a record's times were taken beside other programs; older records don't tell, and count as quiet."""
    cores = environment.get("cores busy before")
    return cores is not None and cores > SHARE * environment["cores"]
