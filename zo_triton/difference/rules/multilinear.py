"""Functions that are linear in each of several tensors: inner, outer and bilinear products.

With a' = a + Δa, f(a', b') − f(a, b) = f(Δa, b) + f(a', Δb): each term holds one difference alone,
so nothing cancels. Each term runs on all evaluations at once by vmap.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from zo_triton.difference.registry import handler_of_any, named, register

if TYPE_CHECKING:
    from zo_triton.difference.mode import DifferenceMode


def _register(*names: str, bias: int | None = None) -> None:
    """Registers functions; ``bias`` is the position of an argument that is added, not multiplied."""

    def compute(
        mode: DifferenceMode, function: Callable, base: Tensor, /, *args: Any, **kwargs: Any
    ) -> Tensor:
        if bias is None:
            return telescope(mode, function, base, *args, **kwargs)
        args, kwargs, added = _without_bias(args, kwargs, bias)
        return _telescope(mode, base, function, args, kwargs, added)

    register(named(*names), handler_of_any(compute))


def telescope(mode: DifferenceMode, function: Callable, base: Tensor, /, *args: Any, **kwargs: Any) -> Tensor:
    """A function that is linear in each of its tensors."""
    return _telescope(mode, base, function, args, kwargs, None)


def _without_bias(args: tuple, kwargs: dict, position: int) -> tuple[tuple, dict, Tensor | None]:
    if "bias" in kwargs:
        return args, {**kwargs, "bias": None}, kwargs["bias"]
    if len(args) > position:
        return (*args[:position], None, *args[position + 1 :]), kwargs, args[position]
    return args, kwargs, None


def _telescope(
    mode: DifferenceMode, base: Tensor, function: Callable, args: tuple, kwargs: dict, bias: Tensor | None
) -> Tensor:
    leaves, structure = tree_flatten((args, kwargs))
    differences = [mode.difference(leaf) if isinstance(leaf, Tensor) else None for leaf in leaves]
    wide = torch.promote_types(base.dtype, torch.float32)
    values = [_cast(leaf, wide) for leaf in leaves]
    batched: list[int] = []
    total: Any = None
    for position, delta in enumerate(differences):
        if delta is None:
            continue
        delta = delta.to(wide)
        term = _on_every(function, structure, values, [*batched, position], {position: delta})
        total = term if total is None else total + term
        values[position] = values[position] + delta
        batched.append(position)
    added = mode.difference(bias)
    if added is not None:
        added = mode.align(added, base.dim()).expand(-1, *base.shape)
        total = added if total is None else total + added
    return total


def _on_every(
    function: Callable,
    structure: Any,
    values: Sequence[Any],
    batched: Sequence[int],
    replaced: dict[int, Tensor],
) -> Tensor:
    """The function mapped over the P axis of the batched arguments, one replaced by its difference."""

    def once(*moved: Tensor) -> Tensor:
        filled = list(values)
        for position, value in zip(batched, moved, strict=True):
            filled[position] = value
        args, kwargs = tree_unflatten(filled, structure)
        return function(*args, **kwargs)

    return torch.func.vmap(once)(*[replaced.get(position, values[position]) for position in batched])


def _cast(leaf: Any, dtype: torch.dtype) -> Any:
    return (
        leaf.to(dtype)
        if isinstance(leaf, Tensor) and (leaf.is_floating_point() or leaf.is_complex())
        else leaf
    )


_register("dot", "inner", "outer", "ger", "vdot", "tensordot", "kron")
_register("bilinear", bias=3)
_register("diag", "trace")


def jointly(mode: DifferenceMode, function: Callable, base: Tensor, /, *args: Any, **kwargs: Any) -> Any:
    """Functions that are linear in all their tensors together: they do to differences what they do to tensors.

    A tensor that carries nothing counts as zeros.
    """
    leaves, structure = tree_flatten((args, kwargs))
    if any(isinstance(leaf, float) for leaf in leaves):
        return NotImplemented
    deltas = [mode.difference(leaf) if isinstance(leaf, Tensor) else None for leaf in leaves]
    wide = torch.promote_types(base.dtype, torch.float32)
    values = [
        torch.zeros_like(leaf, dtype=wide)
        if isinstance(leaf, Tensor) and (leaf.is_floating_point() or leaf.is_complex())
        else leaf
        for leaf in leaves
    ]
    replaced = {place: delta.to(wide) for place, delta in enumerate(deltas) if delta is not None}
    return _on_every(function, structure, values, list(replaced), replaced)


register(
    named(
        "index_add",
        "scatter_add",
        "index_copy",
        "masked_scatter",
        "diag_embed",
        "diagflat",
        "block_diag",
        "select_scatter",
        "slice_scatter",
        "diagonal_scatter",
    ),
    handler_of_any(jointly),
)
