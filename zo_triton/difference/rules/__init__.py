"""The rules of difference propagation, one file a family; importing this package is what fills the registry.

A new family is one file here that registers its functions by ``rule``, ``handler`` or ``register`` of
``zo_triton.difference.registry``; nothing else has to know of it. The first line of its docstring is its row in
the table of rules.
"""

from importlib import import_module
from pkgutil import iter_modules
from types import ModuleType


def collect() -> tuple[ModuleType, ...]:
    """The modules of this package, in the order of their names."""
    return tuple(
        import_module(f"{__name__}.{name}") for name in sorted(each.name for each in iter_modules(__path__))
    )


RULE_FAMILIES = collect()
"""All of them, loaded."""
