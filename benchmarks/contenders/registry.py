"""Every contender there is: whatever the modules of this package list.

A new one is one file here with a tuple ``METHODS``; nothing else has to know of it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from pkgutil import iter_modules
from types import ModuleType

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


def guest(address: str) -> Method:
    """A contender that is no part of the suite.

    Args:
        address: ``FILE.py:NAME``, a Python file and a name in it: of a :class:`Method`, or of what builds a
            contender from (model, setting), which then is a zeroth-order method of that name.

    Raises:
        ValueError: The file does not exist or can't be loaded, holds nothing of this name that can be raced, or the
            contender has a name that is taken.
    """
    path, separator, name = address.rpartition(":")
    if not separator or not path.endswith(".py") or not name:
        raise ValueError(f"a contender is named FILE.py:NAME, got {address!r}.")
    found = getattr(_module(Path(path)), name, None)
    if callable(found):
        found = Method(name, name, "zeroth", found)
    if not isinstance(found, Method):
        raise ValueError(
            f"{path} has no contender {name!r}: it must be a Method, or a function or class that builds a "
            "contender from (model, setting)."
        )
    if found.name in METHODS:
        raise ValueError(f"the suite has a contender {found.name!r} of its own; give {address} another name.")
    return found


def _module(path: Path) -> ModuleType:
    """A file as a module, with what lies beside it importable."""
    if not path.is_file():
        raise ValueError(f"there is no file {path}; name the one that holds the contender.")
    spec = spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.path.insert(0, str(path.parent))
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ValueError(f"{path} can't be loaded: {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(str(path.parent))
    return module


def find_methods(names: Iterable[str]) -> list[Method]:
    """Those of the names that can run here, in order.

    Raises:
        ValueError: There is no contender of a name.
    """
    return [method for method in map(METHODS.__getitem__, names) if not method.missing]
