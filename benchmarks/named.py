"""Tables by name whose look-ups say what there is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

T = TypeVar("T")


class Named(dict[str, T]):
    """A dictionary that answers an unknown name with the known ones, for the command line and for callers alike.

    Args:
        kind: What an entry is, in the singular.
        entries: By name.

    Raises:
        ValueError: On looking up a name that is not in it.
    """

    def __init__(self, kind: str, entries: Mapping[str, T]) -> None:
        super().__init__(entries)
        self.kind = kind

    def __missing__(self, name: str) -> T:
        raise ValueError(f"unknown {self.kind} {name!r}; choose one of {tuple(self)}.")
