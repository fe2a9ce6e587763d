"""Every contender there is: whatever the modules of this package list.

A new one is one file here with a tuple ``METHODS``; nothing else has to know of it.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from pkgutil import iter_modules

from benchmarks import contenders
from benchmarks.contenders.contender import Method


def _collect() -> dict[str, Method]:
    # Ours come first, wherever contenders are listed.
    modules = sorted(
        (module.name for module in iter_modules(contenders.__path__)), key=lambda name: name != "fused"
    )
    found: list[Method] = []
    for name in modules:
        if name != "registry":
            found += getattr(import_module(f"{contenders.__name__}.{name}"), "METHODS", ())
    known = {method.name: method for method in found}
    if len(known) < len(found):
        raise ValueError(f"two contenders have one name among {sorted(method.name for method in found)}.")
    return known


METHODS = _collect()
"""By name."""


def find_method(name: str) -> Method:
    """The contender of that name.

    Raises:
        ValueError: There is none.
    """
    if name not in METHODS:
        raise ValueError(f"unknown contender {name!r}; choose one of {tuple(METHODS)}.")
    return METHODS[name]


def find_methods(names: Iterable[str]) -> list[Method]:
    """Those of the names whose packages are installed, in order.

    Raises:
        ValueError: There is no contender of a name.
    """
    return [method for method in map(find_method, names) if not method.missing]
