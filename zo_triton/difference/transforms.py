"""``torch.func`` inside the closure: ``vmap`` is subtracted; other transforms of what carries are refused.

A transform wraps its operands in tensors that the mode has never seen and unwraps the result past it, so a
difference would be lost without a word. A ``vmap`` is therefore one function without a rule, of the operands that
it is given; what its function only captures must carry nothing. Masks and positions may go through any transform.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch._functorch.apis as functorch
from torch import Tensor
from torch._C import _is_torch_function_mode_enabled
from torch._C._functorch import get_unwrapped, is_functorch_wrapped_tensor
from torch.overrides import handle_torch_function
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from zo_triton.difference import fallback
from zo_triton.difference.random_state import RandomState
from zo_triton.difference.registry import COMPLEX, HANDLERS, register
from zo_triton.difference.rules.passive import on_base

if TYPE_CHECKING:
    from zo_triton.difference.mode import DifferenceMode

_vmap = functorch.vmap_impl  # type: ignore[attr-defined]


def install() -> None:
    """Lets torch-function modes see ``torch.vmap``, once and for good."""
    functorch.vmap_impl = vmap  # type: ignore[attr-defined, assignment]


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


def _handle(mode: DifferenceMode, function: Callable, args: tuple, kwargs: dict) -> Any:
    if not mode.carries(args):
        with mode:
            return mapped(*args)
    before = mode.once(RandomState.capture, mode.signed_eps.device)
    versions = fallback.versions_of(args)
    base = mode.once(_on_base, mode, *args)

    def compute(mode: DifferenceMode, base: Any, /, *args: Any) -> Any:
        return fallback.difference(mode, base, mapped, args, {}, before, versions)

    return mode.apply(compute, base, mapped, args, {})


def _on_base(mode: DifferenceMode, how: tuple, *leaves: Any) -> Any:
    """The base's result; the mapped function runs under the mode, which refuses what it captures.

    The operands go in under other names, so that a captured one is told from them.
    """
    function, *rest = how

    def watched(*args: Any, **kwargs: Any) -> Any:
        with mode:
            return function(*args, **kwargs)

    tape, mode.tape = mode.tape, None  # of what happens inside only the result is kept
    try:
        aliases = [leaf.detach() if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        return mapped((watched, *rest), *aliases)
    finally:
        mode.tape = tape


for _table in (HANDLERS, COMPLEX):
    register((mapped,), _handle, _table)


def check(mode: DifferenceMode, function: Callable, args: tuple, kwargs: dict) -> None:
    """Refuses a function under a transform whose operand, unwrapped, carries a difference.

    Raises:
        MissingRuleError: It does, and the function is more than a question about it.
    """
    if HANDLERS.get(function) is not on_base and mode.carries(list(_unwrapped((args, kwargs)))):
        fallback.refuse(
            function, "runs inside a torch.func transform (vmap, grad, jvp, …), where none can follow"
        )


def _unwrapped(values: Any) -> Iterator[Any]:
    """The operands as they were before any transform."""
    for value in tree_leaves(values):
        while isinstance(value, Tensor) and is_functorch_wrapped_tensor(value):
            value = get_unwrapped(value)
        yield value
