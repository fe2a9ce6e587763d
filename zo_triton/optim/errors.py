"""Errors of a training step that a caller may want to tell apart."""

from __future__ import annotations


class NonFiniteLossError(ValueError):
    """The loss, or a difference of it, is not finite; nothing was changed."""
