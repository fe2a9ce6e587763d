"""What torch hands to no mode by itself: parameters and subclasses made inside the closure, and ``torch.vmap``.

``nn.Parameter(h)`` and ``h.as_subclass(C)`` are a tensor under another name, and ``torch.vmap(f)(h)`` is a function
of h; here modes are made to see them. A class with a ``__torch_function__`` of its own has its way, under the mode,
so that the torch functions it calls are seen. What wraps a tensor that carries a difference, as a ``MaskedTensor``
does, is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch._functorch.apis as functorch
from torch import Tensor
from torch._C import _is_torch_function_mode_enabled
from torch.nn import Parameter
from torch.overrides import handle_torch_function
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from zo_triton.difference.fallback import refuse
from zo_triton.difference.registry import HANDLERS

if TYPE_CHECKING:
    from zo_triton.difference.mode import DifferenceMode

_as_subclass = Tensor.as_subclass
_new_parameter = Parameter.__new__
_vmap = functorch.vmap_impl  # type: ignore[attr-defined]


def as_subclass(self: Tensor, cls: type) -> Any:
    """``Tensor.as_subclass``, which torch-function modes get to see."""
    if _is_torch_function_mode_enabled():
        return handle_torch_function(as_subclass, (), self, cls)
    return _as_subclass(self, cls)


def new_parameter(cls: type, data: Tensor | None = None, requires_grad: bool = True) -> Any:
    """``nn.Parameter(data)``, which torch-function modes get to see."""
    if _is_torch_function_mode_enabled():
        return handle_torch_function(parameter_of, (), data, cls, requires_grad)
    return _new_parameter(cls, data, requires_grad)


def parameter_of(data: Tensor | None, cls: type, requires_grad: bool) -> Any:
    """The same with the tensor first, as rules want it."""
    return new_parameter(cls, data, requires_grad)


def vmap(
    function: Callable, in_dims: Any, out_dims: Any, randomness: Any, chunk: Any, *args: Any, **kwargs: Any
) -> Any:
    """What ``torch.vmap(function, …)(*args)`` calls; a mode gets the operands one by one."""
    if _is_torch_function_mode_enabled():
        leaves, structure = tree_flatten((args, kwargs))
        how = (function, in_dims, out_dims, randomness, chunk, structure)
        return handle_torch_function(mapped, (), how, *leaves)
    return _vmap(function, in_dims, out_dims, randomness, chunk, *args, **kwargs)


def mapped(how: tuple, *leaves: Any) -> Any:
    """``torch.vmap`` of operands that were flattened."""
    *settings, structure = how
    args, kwargs = tree_unflatten(leaves, structure)
    return _vmap(*settings, *args, **kwargs)


mapped.__module__, mapped.__qualname__ = "torch", "vmap"


def install() -> None:
    """Puts all three in torch's place. Once, for good: a class that changes again and again gets slow."""
    if Tensor.as_subclass is not as_subclass:
        Tensor.as_subclass = as_subclass  # type: ignore[assignment, method-assign]
        Parameter.__new__ = new_parameter  # type: ignore[method-assign]
        functorch.vmap_impl = vmap  # type: ignore[attr-defined, assignment]


@lru_cache(maxsize=256)
def is_own(types: tuple[Any, ...]) -> bool:
    """Whether one of the classes says itself what torch functions do with its tensors."""
    plain = (None, Tensor.__torch_function__.__func__)  # type: ignore[attr-defined]
    return any(getattr(each.__torch_function__, "__func__", None) not in plain for each in types)


def own(mode: DifferenceMode, function: Callable, types: tuple[Any, ...], args: tuple, kwargs: dict) -> Any:
    """Lets the classes say what the function does, under the mode.

    Raises:
        MissingRuleError: A tensor of theirs wraps one that carries a difference.
    """
    for value in tree_leaves((args, kwargs)):
        if isinstance(value, Tensor) and mode.carries(getattr(value, "__dict__", {}).values()):
            refuse(function, f"is wrapped in a {type(value).__name__}, which carries no differences")
    with mode:
        for each in types:
            result = each.__torch_function__(function, types, args, kwargs)
            if result is not NotImplemented:
                return result
    return (
        HANDLERS[function](mode, function, args, kwargs)
        if function in HANDLERS
        else function(*args, **kwargs)
    )
