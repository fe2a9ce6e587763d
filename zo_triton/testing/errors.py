"""What a property raises: that it does not hold, or that it can't be asked."""

from __future__ import annotations

from unittest import SkipTest


class ConformanceError(AssertionError):
    """An optimizer lacks a property that every zeroth-order optimizer must have.

    Args:
        defect: What it does wrong, in a few words.
        measured: The figures that show it, with what they should have been.
        remedy: How to mend it.
    """

    def __init__(self, defect: str, measured: str, remedy: str) -> None:
        super().__init__(f"{defect}: {measured}. {remedy}.")
        self.defect, self.measured, self.remedy = defect, measured, remedy


class NotApplicable(SkipTest):
    """A property says nothing about this optimizer, or can't be seen on this machine; pytest skips the test."""
