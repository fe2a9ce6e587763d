"""Trained parameters under other names, and pending layers in other shapes, through functions that move nothing.

``F.linear(x, weight.data)``, ``x @ weight.T`` and ``torch.bmm(x, weight.expand(8, -1, -1))`` are still the fused
linear layer; and of ``addmm(bias, x.view(-1, n), weight).view(8, -1, m)`` the view is what an activation follows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import TYPE_CHECKING, Any

from torch import Tensor

from zo_triton.difference.chains import PendingChain, defer
from zo_triton.difference.entries import Entry, Symbol, Viewed
from zo_triton.difference.matrices import symbol_of
from zo_triton.difference.pending_layers import PendingLinear
from zo_triton.difference.registry import handler_of, named, register

if TYPE_CHECKING:
    from zo_triton.difference.mode import DifferenceMode


def copying(*names: str, also: Sequence[Callable] = ()) -> Callable[[Callable], Callable]:
    """Registers a rule for functions that give all elements of a tensor in its shape, in its memory or not."""
    return _registering([*named(*names), *also], _copied)


def viewing(*names: str, in_order: bool = False) -> Callable[[Callable], Callable]:
    """Registers a rule for functions that may give a view; ``in_order`` if the elements' order is kept."""
    return _registering(named(*names), _viewed_in_order if in_order else _viewed)


def _registering(
    functions: Sequence[Callable], follow: Callable[[DifferenceMode, Tensor, Tensor], Entry | None]
) -> Callable[[Callable], Callable]:
    def decorate(compute: Callable) -> Callable:
        rule = handler_of(compute)

        @wraps(compute)
        def handle(mode: DifferenceMode, function: Callable, args: tuple, kwargs: dict) -> Any:
            source: Any = args[0] if args else kwargs.get("input")
            entry = mode.entries.get(id(source))
            lazy = None if entry is None else entry.lazy
            if id(source) not in mode.ids and not isinstance(lazy, (Symbol, PendingLinear, PendingChain)):
                return rule(mode, function, args, kwargs)
            base = mode.once(function, *args, **kwargs)
            if base is source:
                return base
            if isinstance(lazy, PendingChain):
                if follow is _copied and _is_cast(source, base) and defer(mode, _cast, base, (source,), {}):
                    return base
                return mode.apply(compute, base, function, args, kwargs)
            if isinstance(base, Tensor) and base.is_floating_point() and base.device == source.device:
                followed = follow(mode, source, base)
                if followed is not None:
                    mode.put(base, followed)
                    return base
            return mode.apply(compute, base, function, args, kwargs)

        register(functions, handle)
        return compute

    return decorate


def _cast(mode: DifferenceMode, base: Tensor, input: Tensor) -> Tensor:
    """The difference of another rounding of the base."""
    return mode.needed(input)


def _is_cast(source: Tensor, base: Any) -> bool:
    return isinstance(base, Tensor) and base.shape == source.shape and base.dtype != source.dtype


def _copied(mode: DifferenceMode, source: Tensor, base: Tensor) -> Entry | None:
    symbol = symbol_of(mode, source)
    if symbol is None or base.shape != source.shape:
        return None
    return Entry(None, Symbol(symbol.parameter, symbol.tensor_id, symbol.transposed, symbol.batch))


def _viewed(mode: DifferenceMode, source: Tensor, base: Tensor) -> Entry | None:
    """A matrix, its transpose, or either one repeated along leading axes: told by how they lie in memory."""
    symbol = symbol_of(mode, source)
    if symbol is None or min(source.dim(), base.dim()) < 2:
        return None
    if base.dtype != source.dtype or base.numel() == 0 or base.data_ptr() != source.data_ptr():
        return None
    if any(size > 1 and stride for size, stride in zip(base.shape[:-2], base.stride()[:-2], strict=True)):
        return None
    lies, lay = ((each.shape[-2:], each.stride()[-2:]) for each in (base, source))
    turned = lies != lay
    if symbol.parameter.dim() != 2 or (turned and lies != (lay[0][::-1], lay[1][::-1])):
        return None
    transposed = symbol.transposed != turned
    return Entry(None, Symbol(symbol.parameter, symbol.tensor_id, transposed, base.shape[:-2]))


def _viewed_in_order(mode: DifferenceMode, source: Tensor, base: Tensor) -> Entry | None:
    entry = mode.entries.get(id(source))
    if entry is None or not isinstance(entry.lazy, PendingLinear):
        return _viewed(mode, source, base)
    layer = entry.lazy
    if layer.spent or base.dtype != source.dtype or base.shape[-1:] != source.shape[-1:]:
        return None
    taken = Entry(None, layer)
    shape = layer.shape
    # The view took the layer over: what was viewed has its difference from there.
    entry.lazy = Viewed(taken, lambda delta: delta.reshape(delta.shape[0], *shape))
    layer.shape = base.shape
    return taken
