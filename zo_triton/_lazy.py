"""Packages that load nothing themselves: each public name brings its module when it is first used."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from importlib import import_module


def lazy_names(
    package: str, names: Mapping[str, Sequence[str]], submodules: Collection[str] = ()
) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """The ``__getattr__`` and the ``__dir__`` of such a package.

    No name may equal that of a submodule: importing the submodule would put it in the name's place.

    Args:
        package: The package's ``__name__``.
        names: The public names that each of its submodules defines.
        submodules: Those that are public themselves.

    Returns:
        The two functions, to be bound at the package's top level, hidden from type checkers, which would
        otherwise take any misspelt name for one that loads later.
    """
    home = {name: module for module, defined in names.items() for name in defined}

    def load(name: str) -> object:
        if name in submodules:
            return import_module(f"{package}.{name}")
        if name not in home:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(import_module(f"{package}.{home[name]}"), name)
        setattr(sys.modules[package], name, value)
        return value

    def list_names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *home, *submodules})

    return load, list_names
