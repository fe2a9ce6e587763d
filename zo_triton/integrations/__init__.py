"""Zeroth-order steps inside other libraries' training loops; each module here needs the library it is named for."""

from typing import TYPE_CHECKING

from zo_triton._lazy import lazy_names

if TYPE_CHECKING:
    from zo_triton.integrations import transformers

__all__ = ["transformers"]

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazy_names(__name__, {}, {"transformers"})
