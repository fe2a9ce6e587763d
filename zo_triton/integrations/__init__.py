"""Zeroth-order steps inside other libraries' training loops; a module named for a library needs it."""

from typing import TYPE_CHECKING

from zo_triton._lazy import lazy_names

if TYPE_CHECKING:
    from zo_triton.integrations import logging, transformers

__all__ = ["logging", "transformers"]

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazy_names(__name__, {}, {"logging", "transformers"})
