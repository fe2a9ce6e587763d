"""What difference propagation refuses, where a plain ValueError or TypeError would say too little."""

from __future__ import annotations


class NotATensorError(TypeError):
    """The closure returned something else than a tensor; ``value`` holds what it returned.

    A plain number can't carry differences. An optimizer may catch this and evaluate the closure direction by
    direction instead.
    """

    def __init__(self, value: object) -> None:
        super().__init__(
            f"the closure returned {value!r} of type {type(value).__name__}, which carries no "
            "differences; return the tensor itself (no .item() or float()), or wrap the closure in "
            "zo.BlackBox to evaluate it direction by direction."
        )
        self.value = value


class UncoveredError(Exception):
    """A rule was asked for arguments that it has no formula for; the generic subtraction takes the call."""


class MissingRuleError(NotImplementedError, ValueError):
    """A torch function met a difference that it can't hand on.

    Either it has no rule while ``strict=True``, or its result can't hold a difference at all.
    """
