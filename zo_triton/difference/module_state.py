"""What modules hold in their attributes, taken and put back, so that every run of a closure starts from the same.

A module may count by writing in place, which the mode sees, or by binding something new: ``self.n = self.n + 1``,
``self.losses.append(…)``. No torch function does the latter, so the attributes of all modules that the closure
reaches are noted before its first run.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache, partial
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from zo_triton._warn import warn

DEPTH = 2
"""How many objects may lie between a closure and a module: two for ``self.trainer.model``."""

LONGEST = 64
"""Items of the longest list, tuple, set or dictionary in which modules are looked for."""

_CONTAINERS = (dict, list, set, deque)
_FUNCTIONS = (FunctionType, MethodType, partial)
_OWN = frozenset(vars(nn.Module()))
_HOOKS = frozenset(name for name in _OWN if "hook" in name)
_BARREN = (Tensor, str, bytes, int, float, type, ModuleType, type(None))


class ModuleState:
    """The attributes of all modules that a closure reaches, as they are when this is made.

    It reaches what a function has in its cells, its defaults, or under the global names that it uses; the object of
    a bound method, the arguments of a ``functools.partial``; functions of the same file; short containers, and
    objects up to :data:`DEPTH` deep. Of a module it holds what each attribute is bound to, buffers and parameters
    among them, and what lies in lists, dictionaries, sets and deques that are attributes, or up to :data:`DEPTH`
    levels within these.

    Args:
        closure: What will run.
    """

    def __init__(self, closure: Callable[..., Any]) -> None:
        self._attributes: dict[nn.Module, dict[str, Any]] = {}
        self._contents: list[tuple[Any, Any]] = []
        for root in _reached(closure):
            if root not in self._attributes:
                for module in root.modules():
                    self._note(module)

    def _note(self, module: nn.Module) -> None:
        own = self._attributes[module] = vars(module).copy()
        for name, value in own.items():
            if name not in _HOOKS and isinstance(value, _CONTAINERS):
                self._note_contents(value, 0 if name in _OWN else DEPTH)

    def _note_contents(self, container: Any, depth: int) -> None:
        """Notes a container's items, and so many levels of containers within it."""
        self._contents.append((container, container.copy() if container else None))
        if depth and 0 < len(container) <= LONGEST:
            for part in container.values() if isinstance(container, dict) else container:
                if isinstance(part, _CONTAINERS):
                    self._note_contents(part, depth - 1)

    def restore(self) -> None:
        """Binds every attribute to what it was bound to, and fills the containers with what they held."""
        for module, attributes in self._attributes.items():
            own = vars(module)
            for name in own.keys() - attributes.keys():
                del own[name]
            own.update(attributes)
        for container, held in self._contents:
            container.clear()
            if held:
                (container.update if isinstance(container, (dict, set)) else container.extend)(held)

    @contextmanager
    def unreached_announced(self) -> Iterator[None]:
        """Warns of modules that are called in the block, bind something new, and will not be restored.

        Warns:
            RuntimeWarning: It names the module's class and the attribute.
        """
        noted: dict[nn.Module, dict[str, Any]] = {}

        def note(module: nn.Module, args: Any) -> None:
            if module not in self._attributes and module not in noted:
                noted[module] = _bindings(module)

        handle = register_module_forward_pre_hook(note)
        try:
            yield
        finally:
            handle.remove()
        for module, before in noted.items():
            now = _bindings(module)
            for name in now:
                if name not in before or now[name] is not before[name]:
                    warn(
                        f"{type(module).__name__}.{name} was bound anew in a module too far from the closure to be "
                        "put back between the closure's runs, one for each chunk of directions: it changes once a "
                        "chunk. Let the closure name the module, as in lambda: loss(model(x)), or pass a larger "
                        "chunk.",
                        RuntimeWarning,
                    )
                    break


def _bindings(module: nn.Module) -> dict[str, Any]:
    return {**vars(module), **module._buffers}


def _reached(closure: Any) -> Iterator[nn.Module]:
    """The modules that a closure can name, each perhaps more than once, without those within them."""
    seen: set[int] = set()
    todo = [(closure, 0)]
    while todo:
        value, depth = todo.pop()
        if isinstance(value, _BARREN) or id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, nn.Module):
            yield value
        elif isinstance(value, _FUNCTIONS):
            if isinstance(value, FunctionType) and str(value.__module__).startswith("torch."):
                continue
            todo += [(part, depth) for part in _bound(value)]
        elif depth <= DEPTH:
            todo += [(part, depth + 1) for part in _parts(value)]


def _bound(function: Any) -> Iterator[Any]:
    """What a function will find when it runs."""
    if isinstance(function, MethodType):
        yield function.__self__
        yield function.__func__
    elif isinstance(function, partial):
        yield function.func
        yield from function.args
        yield from function.keywords.values()
    else:
        for cell in function.__closure__ or ():
            try:
                yield cell.cell_contents
            except ValueError:  # not assigned yet
                continue
        yield from function.__defaults__ or ()
        yield from (function.__kwdefaults__ or {}).values()
        around = function.__globals__
        for name in _names(function.__code__):
            value = around.get(name)
            if not isinstance(value, FunctionType) or value.__globals__ is around:
                yield value


@lru_cache(maxsize=1024)
def _names(code: CodeType) -> tuple[str, ...]:
    """The names of a function's globals (and attributes), those of the functions inside it included."""
    inner = [name for each in code.co_consts if isinstance(each, CodeType) for name in _names(each)]
    return (*code.co_names, *inner)


def _parts(value: Any) -> Iterable[Any]:
    """What an object consists of: a container's items, or attributes."""
    if isinstance(value, (tuple, *_CONTAINERS)):
        if len(value) > LONGEST:
            return ()
        return value.values() if isinstance(value, dict) else value
    own = getattr(value, "__dict__", None)
    return tuple(own.values()) if isinstance(own, dict) else ()
