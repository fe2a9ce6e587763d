"""Every contender there is: whatever the modules of this package list.

A new one is one file here with a tuple ``METHODS``; nothing else has to know of it.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from pkgutil import iter_modules

from benchmarks import contenders
from benchmarks.contenders.contender import Method
from benchmarks.named import Named


def _collect() -> Named[Method]:
    # Ours come first, wherever contenders are listed.
    modules = sorted(
        (module.name for module in iter_modules(contenders.__path__)), key=lambda name: name != "fused"
    )
    found: list[Method] = []
    for name in modules:
        if name != "registry":
            found += getattr(import_module(f"{contenders.__name__}.{name}"), "METHODS", ())
    known = Named("contender", {method.name: method for method in found})
    if len(known) < len(found):
        raise ValueError(f"two contenders have one name among {sorted(method.name for method in found)}.")
    return known


METHODS = _collect()
"""By name."""


def find_methods(names: Iterable[str]) -> list[Method]:
    """Those of the names that can run here, in order.

    Raises:
        ValueError: There is no contender of a name.
    """
    return [method for method in map(METHODS.__getitem__, names) if not method.missing]
