"""Linear layers and matrix products."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from zo_triton import ops
from zo_triton.difference import fallback
from zo_triton.difference.entries import Entry, PendingActivation, PendingLinear, Symbol
from zo_triton.difference.heads import is_too_large
from zo_triton.difference.registry import handler, is_dense, rule

if TYPE_CHECKING:
    from zo_triton.difference.mode import DifferenceMode


DEEPEST = 32
"""Linear layers that may be pending one behind the other: resolving them recurses, and holds their bases."""


@handler("linear")
def linear_handler(mode: DifferenceMode, function: Callable, args: tuple, kwargs: dict) -> Tensor:
    """``F.linear``: Δz = δWᵀ + sε·(a+δ)Uᵀ + sε·v, fused with the activation that follows."""
    return _linear(mode, function, *args, **kwargs)


def _linear(
    mode: DifferenceMode, function: Callable, input: Tensor, weight: Tensor, bias: Tensor | None = None
) -> Tensor:
    weight_id = mode.trained(weight)
    bias_id = -1 if bias is None else mode.trained(bias)
    source = mode.entry_of(input)
    general = (
        (weight_id < 0 and mode.entry_of(weight) is not None)
        or (bias is not None and bias_id < 0 and mode.entry_of(bias) is not None)
        or id(input) in mode.ids
    )
    if not is_dense((input, weight)):
        return fallback.handle(mode, function, (input, weight, bias), {})
    base = mode.once(ops.linear, input, weight, bias)
    if general or weight.dim() != 2:
        return mode.apply(_general, base, function, (input, weight, bias), {})
    if source is not None or weight_id >= 0 or bias_id >= 0:
        _defer(mode, base, input, source, weight, weight_id, bias_id)
    return base


def _defer(
    mode: DifferenceMode,
    base: Tensor,
    input: Tensor,
    source: Entry | None,
    weight: Tensor,
    weight_id: int,
    bias_id: int,
) -> None:
    """Enters a linear layer's result as pending, or as zeros where it has no element."""
    shape = base.shape
    if base.numel() == 0 or input.numel() == 0:
        mode.apply(_general, base, torch.nn.functional.linear, (input, weight, None), {})
        return
    if not is_too_large(mode, base.numel()):  # of a large one, only pieces may ever be needed
        mode.reserve(base.numel())
    depth = 1 if source is None else 1 + _depth(source)
    if source is not None and (isinstance(source.lazy, Symbol) or depth > DEEPEST):
        mode.resolve(source)
    flat = input.detach() if input.dim() == 2 else input.reshape(-1, input.shape[-1])
    if flat.dtype != torch.float32:
        flat = flat.float()
    if weight.dtype != torch.float32:
        weight = weight.float()
    depth = depth if depth <= DEEPEST else 1
    pending = PendingLinear(mode.layers, flat, source, weight, weight_id, bias_id, shape, depth=depth)
    mode.layers += 1
    mode.put(base, Entry(None, pending))


def _depth(entry: Entry) -> int:
    """How many pending linear layers stand behind an entry."""
    lazy = entry.lazy
    if isinstance(lazy, PendingActivation) and lazy.source is not None:
        lazy = lazy.source.lazy
    return lazy.depth if isinstance(lazy, PendingLinear) else 0


def _general(
    mode: DifferenceMode, base: Tensor, input: Tensor, weight: Tensor, bias: Tensor | None = None
) -> Tensor:
    """A weight or a bias that isn't a parameter itself but carries a difference: by matrix products."""
    result = product(
        mode,
        base,
        (input, mode.difference(input)),
        (weight.mT if weight.dim() == 2 else weight, _transposed(mode.difference(weight), weight.dim())),
    )
    return _plus(mode, base, result, bias)


def _transposed(difference: Tensor | None, dimensions: int) -> Tensor | None:
    return difference.mT if difference is not None and dimensions == 2 else difference


def _plus(mode: DifferenceMode, base: Tensor, result: Tensor | None, bias: Any, scale: Any = 1) -> Tensor:
    change = mode.difference(bias)
    if change is not None:
        change = mode.align(change, base.dim()).expand(-1, *base.shape)
        change = change if scale == 1 else scale * change
        return change if result is None else result + change
    if result is None:
        return torch.zeros(mode.evaluations, *base.shape, device=base.device)
    return result


def product(
    mode: DifferenceMode,
    base: Tensor,
    left: tuple[Tensor, Tensor | None],
    right: tuple[Tensor, Tensor | None],
) -> Tensor | None:
    """Δ(AB) = ΔA·B + (A + ΔA)·ΔB for ``torch.matmul``'s shapes, in float32; None if neither factor moves.

    Args:
        mode: Supplies the number of evaluations.
        base: AB.
        left: A and its difference.
        right: B and its difference.
    """
    (a, da), (b, db) = left, right
    dtype = torch.promote_types(a.dtype, torch.float32)
    if a.dim() == 1:
        a, da = a.unsqueeze(0), None if da is None else da.unsqueeze(1)
    if b.dim() == 1:
        b, db = b.unsqueeze(1), None if db is None else db.unsqueeze(2)
    rank = max(a.dim(), b.dim())
    result = None
    if da is not None:
        da = mode.align(da.to(dtype), rank)
        result = _times_shared(da, b.to(dtype))
    if db is not None:
        moved = a.to(dtype) if da is None else a.to(dtype) + da
        second = moved @ mode.align(db.to(dtype), rank)
        result = second if result is None else result.add_(second)
    return None if result is None else result.reshape(mode.evaluations, *base.shape)


def _times_shared(stack: Tensor, matrices: Tensor) -> Tensor:
    """``stack @ matrices`` for [P, *batch, n, k] and [*batch, k, m], which torch would copy P times.

    One taller product for each member of the batch does the same.
    """
    if matrices.dim() < 3 or stack.shape[1:-2] != matrices.shape[:-2]:
        return stack @ matrices
    tall = stack.movedim(0, -3)
    result = tall.flatten(-3, -2) @ matrices
    return result.unflatten(-2, tall.shape[-3:-1]).movedim(-3, 0)


@handler("matmul", "mm", "bmm", "mv", "__matmul__")
def matmul_handler(mode: DifferenceMode, function: Callable, args: tuple, kwargs: dict) -> Tensor:
    """``a @ b``; ``x @ weight.T`` of a trained weight is the linear layer it stands for."""
    return _matmul(mode, function, *args, **kwargs)


def _matmul(
    mode: DifferenceMode, function: Callable, input: Tensor, other: Tensor | None = None, **rest: Any
) -> Any:
    for name in ("mat2", "vec"):
        other = rest.pop(name) if other is None and name in rest else other
    if other is None or rest or not is_dense((input, other)):
        return fallback.handle(mode, function, (input, other), rest)
    if not mode.carries((input, other)):
        return function(input, other)
    base = mode.once(function, input, other)
    weight = _untransposed(mode, other)
    if weight is not None and id(input) not in mode.ids and input.dim() >= 2:
        _defer(mode, base, input, mode.entry_of(input), weight, mode.trained(weight), -1)
        return base
    return mode.apply(_matmul_rule, base, function, (input, other), {})


def _untransposed(mode: DifferenceMode, tensor: Tensor) -> Tensor | None:
    entry = mode.entries.get(id(tensor))
    if entry is None or not isinstance(entry.lazy, Symbol) or not entry.lazy.transposed:
        return None
    return entry.lazy.parameter


def _matmul_rule(mode: DifferenceMode, base: Tensor, input: Tensor, other: Tensor) -> Any:
    return product(mode, base, (input, mode.difference(input)), (other, mode.difference(other)))


@handler("__rmatmul__")
def rmatmul_handler(mode: DifferenceMode, function: Callable, args: tuple, kwargs: dict) -> Tensor:
    """``other @ self`` with the operands in the other order."""
    return _matmul(mode, torch.matmul, args[1], args[0])


def _added(
    mode: DifferenceMode,
    base: Tensor,
    input: Tensor,
    left: Tensor,
    right: Tensor,
    *,
    beta: Any = 1,
    alpha: Any = 1,
) -> Tensor:
    """``beta·input + alpha·left@right``."""
    result = product(mode, base, (left, mode.difference(left)), (right, mode.difference(right)))
    if result is not None and alpha != 1:
        result = result * alpha
    return _plus(mode, base, result, input, beta)


@rule("addmm")
def addmm(
    mode: DifferenceMode, base: Tensor, input: Tensor, mat1: Tensor, mat2: Tensor, **factors: Any
) -> Tensor:
    """``beta·input + alpha·mat1@mat2``."""
    return _added(mode, base, input, mat1, mat2, **factors)


@rule("baddbmm")
def baddbmm(
    mode: DifferenceMode, base: Tensor, input: Tensor, batch1: Tensor, batch2: Tensor, **factors: Any
) -> Tensor:
    """``beta·input + alpha·batch1@batch2`` for batches of matrices."""
    return _added(mode, base, input, batch1, batch2, **factors)


@rule("addmv")
def addmv(
    mode: DifferenceMode, base: Tensor, input: Tensor, mat: Tensor, vec: Tensor, **factors: Any
) -> Tensor:
    """``beta·input + alpha·mat@vec``."""
    return _added(mode, base, input, mat, vec, **factors)
