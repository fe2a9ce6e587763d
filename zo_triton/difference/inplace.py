"""Functions that overwrite a tensor: ``x.add_``, ``F.relu(x, inplace=True)``, ``x += y``, ``out=``.

Each becomes its functional form followed by a copy into the target. Refused are targets whose memory another
tensor may look at (the other one's difference would be wrong from then on) and, always, trained parameters.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

from torch import Tensor

from zo_triton.difference import fallback
from zo_triton.difference.entries import Entry, storage_of
from zo_triton.difference.registry import HANDLERS, Handler, named

if TYPE_CHECKING:
    from zo_triton.difference.mode import DifferenceMode

SUPPORTED = (
    "add", "sub", "subtract", "mul", "multiply", "div", "divide", "true_divide", "pow", "neg", "exp",
    "expm1", "log", "log1p", "sqrt", "rsqrt", "reciprocal", "square", "abs", "sin", "cos", "clamp", "clip",
    "clamp_min", "clamp_max", "relu", "tanh", "sigmoid", "silu", "leaky_relu", "hardtanh", "relu6",
    "dropout", "masked_fill", "lerp", "elu", "celu", "selu", "hardswish", "hardsigmoid", "mish", "threshold",
)  # fmt: skip
"""Functions whose in-place form is taken."""

_OPERATORS = {
    "__iadd__": "add",
    "__isub__": "sub",
    "__imul__": "mul",
    "__itruediv__": "div",
    "__idiv__": "div",
    "__ipow__": "pow",
}
_OTHER_WRITERS = {"__setitem__", "__set__", "__ifloordiv__", "__imod__", "__iand__", "__ior__", "__ixor__",
                  "__ilshift__", "__irshift__"}  # fmt: skip
_HARMLESS = {"requires_grad_", "detach_", "share_memory_", "rename_"}
_REMEDY = "use a form that returns a new tensor"


def handler_for(function: Callable) -> Handler | None:
    """The handler of a function that, going by its name, overwrites its first argument; else None."""
    name = str(getattr(function, "__name__", "")).split(".")[0]
    if name in _HARMLESS:
        return lambda mode, function, args, kwargs: function(*args, **kwargs)
    if name == "__set__":
        attribute = getattr(getattr(function, "__self__", None), "__name__", "")
        if attribute not in ("data", "real", "imag"):
            return lambda mode, function, args, kwargs: function(*args, **kwargs)
    writes = name.endswith("_") and not name.endswith("__")
    if not writes and name not in _OPERATORS and name not in _OTHER_WRITERS:
        return None
    return lambda mode, function, args, kwargs: _overwrite(mode, function, name, args, kwargs)


def with_target(mode: DifferenceMode, function: Callable, args: tuple, kwargs: dict) -> Any:
    """Runs a function called with ``inplace=True`` or ``out=``."""
    functional = dict(kwargs)
    if kwargs.get("inplace") is True:
        target = args[0] if args else kwargs["input"]
        functional["inplace"] = False
        supported = getattr(function, "__name__", "") in SUPPORTED
    else:
        target = functional.pop("out")
        supported = function in HANDLERS and isinstance(target, Tensor)
    _check_target(mode, function, target)
    if not mode.carries(args, functional) and id(target) not in mode.entries:
        _remember(mode, target)
        mode.resolve_all()
        return function(*args, **kwargs)
    _check_unshared(mode, function, target)
    if not supported:
        _refuse(function, "has no difference rule that writes into a given tensor")
    return _store(mode, function, target, HANDLERS[function](mode, function, args, functional))


def _overwrite(mode: DifferenceMode, function: Callable, name: str, args: tuple, kwargs: dict) -> Any:
    target = (
        args[0] if args else next((value for value in kwargs.values() if isinstance(value, Tensor)), None)
    )
    _check_target(mode, function, target)
    if not mode.carries(args, kwargs):
        _remember(mode, target)
        mode.resolve_all()
        return function(*args, **kwargs)
    _check_unshared(mode, function, target)
    if name in ("zero_", "fill_", "copy_") and len(args) == (1 if name == "zero_" else 2):
        return _assign(mode, function, *args, **kwargs)
    functional = _OPERATORS.get(name, name[:-1])
    if functional not in SUPPORTED:
        _refuse(function, "has no difference rule")
    form = next(form for form in named(functional) if form in HANDLERS)
    return _store(mode, function, target, HANDLERS[form](mode, form, args, kwargs))


def _assign(
    mode: DifferenceMode, function: Callable, target: Tensor, source: Any = 0, **kwargs: Any
) -> Tensor:
    """``copy_``, ``fill_`` and ``zero_``: the target takes over the source's difference, or loses its own."""
    delta = mode.difference(source)
    if delta is not None:
        delta = mode.align(delta, target.dim()).expand(-1, *target.shape).clone()
    _remember(mode, target)
    mode.remove(target)
    mode.resolve_all()
    function(*((target,) if function.__name__ == "zero_" else (target, source)), **kwargs)
    if delta is not None:
        mode.put(target, Entry(delta, None, True))
    return target


def _store(mode: DifferenceMode, function: Callable, target: Any, result: Tensor) -> Tensor:
    """Copies a functional result and its difference into the target."""
    if result.shape != target.shape:
        _refuse(
            function, f"would turn a tensor of shape {tuple(target.shape)} into one of {tuple(result.shape)}"
        )
    entry = mode.entries.get(id(result))
    if entry is not None:
        mode.resolve(entry)
    _remember(mode, target)
    mode.remove(target)
    mode.resolve_all()
    target.copy_(result)
    if entry is not None:
        mode.put(target, Entry(entry.difference, None, entry.exclusive))
    return target


def _remember(mode: DifferenceMode, target: Any) -> None:
    """Keeps what the targets hold, if the closure did not make them itself out of differences."""
    for each in target if isinstance(target, (list, tuple)) else (target,):
        if id(each) not in mode.entries:
            mode.remember(each)


def _check_target(mode: DifferenceMode, function: Callable, target: Any) -> None:
    """Refuses to write into a trained parameter's memory, or into that of a tensor with a difference."""
    for each in target if isinstance(target, (list, tuple)) else (target,):
        if not isinstance(each, Tensor) or each.numel() == 0:
            continue
        memory = storage_of(each)
        if any(storage_of(parameter) == memory for parameter in mode.params):
            raise ValueError(
                f"{fallback.name_of(function)} would change a trained parameter inside the closure; "
                "it may only read the parameters."
            )
        if id(each) in mode.entries:
            continue
        for entry in list(mode.entries.values()):
            other = entry.reference() if entry.reference is not None else None
            if other is not None and storage_of(other) == memory:
                _refuse(function, "would change a view of a tensor that depends on the trained parameters")


def _check_unshared(mode: DifferenceMode, function: Callable, target: Any) -> None:
    """Refuses a target whose memory another tensor may look at."""
    if not isinstance(target, Tensor):
        _refuse(function, "writes to several tensors at once")
    memory, shared = storage_of(target), False
    if id(target) not in mode.entries:  # nobody entered what it may be a view of
        part = target.untyped_storage().nbytes() != target.numel() * target.element_size()
        shared = part or target._is_view()
    for entry in list(mode.entries.values()):
        other = entry.reference() if entry.reference is not None else None
        shared = shared or (other is not None and other is not target and storage_of(other) == memory)
    if shared:
        _refuse(function, "would change a view in place, so other tensors change too")


def _refuse(function: Callable, why: str) -> NoReturn:
    raise ValueError(
        f"{fallback.name_of(function)} in place {why}, where differences must be carried along; {_REMEDY}."
    )
