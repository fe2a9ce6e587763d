"""Errors of a training step that a caller may want to tell apart."""

from __future__ import annotations


class NonFiniteLossError(ValueError):
    """The loss, or a difference of it, is not finite; nothing was changed."""


def remedy(eps: float) -> str:
    """What to do where a loss is finite and its differences are not: in a run that went well, it is the rate."""
    return (
        "a run whose steps were finite before has diverged: restart from a checkpoint with a lower lr; at a first "
        f"step, lower eps={eps}."
    )
