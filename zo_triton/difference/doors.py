"""Where tensors of other classes come from and what they do: parameters and subclasses made inside the closure.

``nn.Parameter(h)`` and ``h.as_subclass(C)`` are a tensor under another name, but torch hands them to no mode; here
it is made to. A class with a ``__torch_function__`` of its own has its way, under the mode, so that the torch
functions it calls are seen. What wraps a tensor that carries a difference, as a ``MaskedTensor`` does, is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch._C import _is_torch_function_mode_enabled
from torch.nn import Parameter
from torch.overrides import handle_torch_function
from torch.utils._pytree import tree_leaves

from zo_triton.difference.fallback import refuse
from zo_triton.difference.registry import HANDLERS

if TYPE_CHECKING:
    from zo_triton.difference.mode import DifferenceMode

_as_subclass = Tensor.as_subclass
_new_parameter = Parameter.__new__


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


def install() -> None:
    """Puts both in the place of torch's own. Once, for good: a class that changes again and again gets slow."""
    if Tensor.as_subclass is not as_subclass:
        Tensor.as_subclass = as_subclass  # type: ignore[assignment, method-assign]
        Parameter.__new__ = new_parameter  # type: ignore[method-assign]


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
