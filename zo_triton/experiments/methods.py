"""Every contender there is: this project's, and whatever the modules of ``baselines`` list.

A new one is one file there with a tuple ``METHODS``; nothing else has to know of it.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from pkgutil import iter_modules

from zo_triton.experiments import baselines, fused
from zo_triton.experiments.contender import Method


def _collect() -> dict[str, Method]:
    found = list(fused.METHODS)
    for module in iter_modules(baselines.__path__):
        found += import_module(f"{baselines.__name__}.{module.name}").METHODS
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
