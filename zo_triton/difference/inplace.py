"""Functions that overwrite a tensor: ``x.add_``, ``x[mask] = y``, ``F.relu(x, inplace=True)``, ``out=``.

Each is its functional form, whose difference then becomes the target's. If nobody else can look at the target's
memory, that is a new entry; else the memory itself gets a difference, which every view of it reads. Refused are
functions that give a tensor another memory, several targets at once and, always, trained parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch import Tensor

from zo_triton.difference import fallback
from zo_triton.difference.entries import Entry, storage_of
from zo_triton.difference.memories import Memory, same_storage
from zo_triton.difference.placing import placed, places
from zo_triton.difference.registry import COMPLEX, HANDLERS, Handler, has_complex, named
from zo_triton.difference.writes import is_users, make_ready, written_by

if TYPE_CHECKING:
    from zo_triton.difference.mode import DifferenceMode

_OPERATORS = {
    "__iadd__": "add",
    "__isub__": "sub",
    "__imul__": "mul",
    "__itruediv__": "div",
    "__idiv__": "div",
    "__ifloordiv__": "floor_divide",
    "__imod__": "remainder",
    "__ipow__": "pow",
}
_OTHER_WRITERS = {"__setitem__", "__set__", "__iand__", "__ior__", "__ixor__", "__ilshift__", "__irshift__"}
_HARMLESS = {"requires_grad_", "detach_", "share_memory_", "rename_"}
_CONSTANT = {"zero_", "normal_", "uniform_", "bernoulli_", "exponential_", "geometric_", "cauchy_", "random_",
             "log_normal_"}  # fmt: skip
"""What the target held is gone; no other tensor says what it holds now."""
_RESHAPING = {"t_", "transpose_", "swapaxes_", "swapdims_", "squeeze_", "unsqueeze_", "as_strided_"}
"""The memory stays as it is, and the tensor looks at it in another way."""
_REHOUSING = {"set_", "resize_", "resize_as_", "apply_", "map_", "map2_"}
"""Other memory takes the place of the tensor's own, or Python computes it."""
_REMEDY = "use a form that returns a new tensor"


def handler_for(function: Callable) -> Handler | None:
    """The handler of a function that, going by its name, overwrites its first argument; else None."""
    if is_users(function):
        return None
    name = str(getattr(function, "__name__", "")).split(".")[0]
    if name in _HARMLESS:
        return lambda mode, function, args, kwargs: function(*args, **kwargs)
    if name == "__set__":
        attribute = getattr(getattr(function, "__self__", None), "__name__", "")
        if attribute not in ("data", "real", "imag"):
            return lambda mode, function, args, kwargs: function(*args, **kwargs)
        if attribute == "data":
            return _set_data
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
    else:
        target = functional.pop("out")
        for each in _each(target):
            mode.written.remember_look(each)  # an empty one gets other sizes
    if not _concerns(mode, function, target, args, functional):
        return function(*args, **kwargs)
    result = _rules(args, kwargs).get(function, fallback.handle)(mode, function, args, functional)
    for each, its_result in (
        ((target, result),) if isinstance(target, Tensor) else zip(target, result, strict=True)
    ):
        if each.numel() == 0:
            make_ready(mode, (each,))
            each.resize_(its_result.shape)
        _store(mode, function, each, its_result)
    return target


def _overwrite(mode: DifferenceMode, function: Callable, name: str, args: tuple, kwargs: dict) -> Any:
    target = (
        args[0] if args else next((value for value in kwargs.values() if isinstance(value, Tensor)), None)
    )
    rehouses = name in _REHOUSING or name in _RESHAPING or name == "__set__"
    if rehouses:
        mode.written.remember_look(target)
    nothing = isinstance(target, Tensor) and target.numel() == 0 and not rehouses
    if nothing or not _concerns(mode, function, target, args, kwargs):
        return function(*args, **kwargs)
    if not isinstance(target, Tensor):
        _refuse(function, "writes to several tensors at once")
    if not _is_continuous(target):  # as by .long(): integers carry nothing
        _prepare(mode, target)
        return function(*args, **kwargs)
    if name in _RESHAPING:
        mode.written.remember_look(target)
        _share(mode, target)
        return function(*args, **kwargs)
    if name == "__setitem__" and isinstance(args[2], (list, tuple)) and mode.carries(args[2]):
        _refuse(function, "makes a new tensor of a list of tensors")
    if name == "__setitem__" and _is_basic(args[1]):
        return _set_part(mode, function, *args)
    if name in _CONSTANT or name in ("fill_", "copy_"):
        return _assign(mode, function, name, target, args, kwargs)
    functional = _OPERATORS.get(name, name if name == "__setitem__" else name[:-1])
    if places(functional, args, kwargs):
        mode.wide = False
        difference = placed(mode, function, functional, args, kwargs)
        finish = _prepare(mode, target)
        result = function(*args, **kwargs)
        finish(difference, True)
        return result
    try:
        forms = named(functional) if name not in _REHOUSING else []
    except LookupError:
        forms = []
    if not forms:
        _refuse(function, "has no form that differences can follow")
    # The method without its underscore takes the same arguments in the same order; a function may not.
    method: Any = getattr(Tensor, functional, None)
    rules = _rules(args, kwargs)
    form = next((each for each in forms if each in rules), method if method in forms else forms[-1])
    return _store(mode, function, target, rules.get(form, fallback.handle)(mode, form, args, kwargs))


def _rules(args: tuple, kwargs: dict) -> dict[Any, Handler]:
    return COMPLEX if has_complex(args, kwargs) else HANDLERS


def _is_continuous(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


def _set_data(mode: DifferenceMode, function: Callable, args: tuple, kwargs: dict) -> Any:
    """``target.data = value``, which changes nothing if it is the same: a module's ``.to(dtype)`` does that."""
    target, value = args
    if isinstance(value, Tensor) and _look(value) == _look(target):
        return None
    return _overwrite(mode, function, "__set__", args, kwargs)


def _look(tensor: Tensor) -> tuple:
    """Which memory a tensor looks at, and how."""
    return storage_of(tensor), tensor.dtype, tensor.shape, tensor.stride(), tensor.storage_offset()


def _is_basic(index: Any) -> bool:
    """Whether an index gives a view: numbers, slices, ``...`` and None."""
    parts = index if isinstance(index, tuple) else (index,)
    return all(part is None or part is Ellipsis or type(part) in (int, slice) for part in parts)


def _set_part(mode: DifferenceMode, function: Callable, target: Tensor, index: Any, value: Any) -> None:
    """``target[index] = value`` where the index gives a view: that view takes over the value's difference."""
    part = target[index]
    difference = _spread(mode, value, part)
    finish = _prepare(mode, target, part)
    function(target, index, value)
    finish(difference, False)


def _assign(
    mode: DifferenceMode, function: Callable, name: str, target: Tensor, args: tuple, kwargs: dict
) -> Tensor:
    """``copy_``, ``fill_``, ``zero_``, random numbers: the target takes over a difference, or loses its own."""
    others = [*args[1:], *(value for key, value in kwargs.items() if key not in ("self", "input"))]
    if name in _CONSTANT and mode.carries(others):
        _refuse(function, "draws random numbers from parameters")
    difference = None if name in _CONSTANT else _spread(mode, others[0], target)
    finish = _prepare(mode, target)
    function(*args, **kwargs)
    finish(None if difference is None else difference.clone(), True)
    return target


def _spread(mode: DifferenceMode, source: Any, target: Tensor) -> Tensor | None:
    """A source's difference as the target takes it over, [P, *target.shape]."""
    difference = mode.difference(source)
    if difference is None:
        return None
    if difference.is_complex() and not target.is_complex():
        difference = difference.real
    while difference.dim() > target.dim() + 1:  # assignments to items ignore leading ones
        difference = difference.squeeze(1)
    return mode.align(difference, target.dim()).expand(-1, *target.shape)


def _store(mode: DifferenceMode, function: Callable, target: Tensor, result: Any) -> Tensor:
    """Copies a functional result and its difference into the target."""
    if not isinstance(result, Tensor):
        _refuse(function, "does not give one tensor")
    if result.shape != target.shape:
        _refuse(
            function, f"would turn a tensor of shape {tuple(target.shape)} into one of {tuple(result.shape)}"
        )
    entry = mode.entry_of(result)
    difference = None if entry is None else mode.resolve(entry)
    finish = _prepare(mode, target)
    target.copy_(result)
    finish(difference, entry is not None and entry.exclusive and entry.readers == 1)
    if mode.nodes is not None:
        mode.nodes.reduced.rename(result, target)
    return target


def _prepare(
    mode: DifferenceMode, target: Tensor, part: Tensor | None = None
) -> Callable[[Tensor | None, bool], None]:
    """Makes ready for a write to a target, or to a part of it alone.

    Returns:
        Takes the difference of what was written, or None, and whether it is nobody else's.
    """
    if _overlaps_itself(target if part is None else part):
        raise ValueError(
            "an in-place function writes to a tensor whose elements share memory, as those of .unfold() do: "
            "which of them stays is not certain; write to a .clone() of it."
        )
    make_ready(mode, (target,))
    if not _is_continuous(target):
        return lambda difference, exclusive: None
    if part is None and _is_alone(mode, target):

        def enter(difference: Tensor | None, exclusive: bool) -> None:
            mode.remove(target)
            if difference is not None:
                mode.put(target, Entry(difference, None, exclusive))

        return enter
    memory = _share(mode, target)
    return lambda difference, exclusive: memory.write(target if part is None else part, difference, exclusive)


def _overlaps_itself(target: Tensor) -> bool:
    """Whether steps along different axes may meet; torch refuses most writes to a tensor that ``expand`` made."""
    if target.is_contiguous() or target.numel() == 0:
        return False
    reach = 0
    for stride, size in sorted(zip(target.stride(), target.shape, strict=True)):
        if size > 1 and stride > 0:
            if stride <= reach:
                return True
            reach += stride * (size - 1)
    return False


def _is_alone(mode: DifferenceMode, target: Tensor) -> bool:
    """Whether the target is entered and nobody else can look at its memory."""
    return (
        id(target) in mode.entries
        and not target._is_view()
        and target.untyped_storage().nbytes() == target.numel() * target.element_size()
        and len(_sharing(mode, target)) == 1
    )


def _share(mode: DifferenceMode, target: Tensor) -> Memory:
    """Gives the target's memory a difference of its own, gathered from all the entries that look at it."""
    mode.give_up_tape()
    memory = mode.memories.find(target)
    if memory is None:
        whole = target._base if target._is_view() else target
        memory = Memory(target if whole is None else whole, mode.evaluations, mode.compute_dtype)
        mode.complex = mode.complex or memory.difference.is_complex()
        mode.reserve(memory.difference.shape[1])
        for other in _sharing(mode, target):
            entry = mode.entries[id(other)]
            memory.write(other, mode.resolve(entry), entry.exclusive and entry.readers == 1)
            mode.remove(other)
        mode.memories.add(memory)
    return memory


def _sharing(mode: DifferenceMode, target: Tensor) -> list[Tensor]:
    """The base tensors with an entry that look at the target's memory, itself among them."""
    references = [entry.reference for entry in mode.entries.values() if entry.reference is not None]
    tensors = [reference() for reference in references]
    return [each for each in tensors if each is not None and same_storage(each, target)]


def _concerns(mode: DifferenceMode, function: Callable, target: Any, args: tuple, kwargs: dict) -> bool:
    """Whether a write concerns differences; if not, all is made ready for it.

    Raises:
        ValueError: It would change a trained parameter.
    """
    targets = [each for each in _each(target) if isinstance(each, Tensor)]
    for each in targets:
        memory = storage_of(each) if each.numel() and each.layout == torch.strided else 0
        if memory and any(storage_of(parameter) == memory for parameter in mode.params):
            raise ValueError(
                f"{fallback.name_of(function)} would change a trained parameter inside the closure; "
                "it may only read the parameters."
            )
    if mode.carries(args, kwargs) or mode.carries(targets) or any(_sharing(mode, each) for each in targets):
        return True
    make_ready(mode, [*targets, *written_by(function, args, kwargs)])
    return False


def _each(target: Any) -> Sequence[Any]:
    return target if isinstance(target, (list, tuple)) else (target,)


def _refuse(function: Callable, why: str) -> NoReturn:
    raise ValueError(
        f"{fallback.name_of(function)} in place {why}, where differences must be carried along; {_REMEDY}."
    )
