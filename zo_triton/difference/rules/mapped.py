"""``torch.vmap``, subtracted as a whole: of the operands that it is given, not of what its function captures."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch import Tensor

from zo_triton.difference import fallback
from zo_triton.difference.doors import mapped
from zo_triton.difference.random_state import RandomState
from zo_triton.difference.registry import COMPLEX, HANDLERS, register

if TYPE_CHECKING:
    from zo_triton.difference.mode import DifferenceMode


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
