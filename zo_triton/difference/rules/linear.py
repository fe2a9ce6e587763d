"""Linear layers and matrix products."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from zo_triton import ops
from zo_triton._precision import factor
from zo_triton.difference import fallback
from zo_triton.difference.matrices import defer, fused, matrix_of
from zo_triton.difference.registry import handler, is_dense

if TYPE_CHECKING:
    from zo_triton.difference.mode import DifferenceMode


@handler("linear")
def linear_handler(mode: DifferenceMode, function: Callable, args: tuple, kwargs: dict) -> Tensor:
    """``F.linear``: Δz = δWᵀ + sε·(a+δ)Uᵀ + sε·v, fused with the activation that follows."""
    return _linear(mode, function, *args, **kwargs)


def _linear(
    mode: DifferenceMode, function: Callable, input: Tensor, weight: Tensor, bias: Tensor | None = None
) -> Tensor:
    if not is_dense((input, weight)):
        return fallback.handle(mode, function, (input, weight, bias), {})
    base = mode.once(ops.linear, input, weight, bias)
    if not mode.carries((input, weight, bias)):
        return base
    matrix, bias_id = matrix_of(mode, weight), _bias_id(mode, base, bias)
    if matrix is None or bias_id is None or not defer(mode, base, input, matrix.turned, bias_id):
        mode.apply(_general, base, function, (input, weight, bias), {})
    return base


def _bias_id(mode: DifferenceMode, base: Tensor, bias: Tensor | None) -> int | None:
    """The tensor id of what is added to a product, -1 for a constant; None if it is no trained [out_features]."""
    if bias is None:
        return -1
    tensor_id = mode.trained(bias)
    if tensor_id < 0:
        return -1 if mode.entry_of(bias) is None else None
    return tensor_id if bias.shape == base.shape[-1:] else None


def _general(
    mode: DifferenceMode, base: Tensor, input: Tensor, weight: Tensor, bias: Tensor | None = None
) -> Tensor:
    """What is no layer of a trained matrix and a trained bias: by matrix products."""
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
        return torch.zeros(mode.evaluations, *base.shape, dtype=torch.float32, device=base.device)
    return result


def product(
    mode: DifferenceMode,
    base: Tensor,
    left: tuple[Tensor, Tensor | None],
    right: tuple[Tensor, Tensor | None],
    narrow: torch.dtype = torch.float32,
) -> Tensor | None:
    """Δ(AB) = ΔA·B + (A + ΔA)·ΔB for ``torch.matmul``'s shapes, in float32; None if neither factor moves.

    Args:
        mode: Supplies the number of evaluations.
        base: AB.
        left: A and its difference.
        right: B and its difference.
        narrow: What the caller rounds the result to: an engine with a way of its own does it on the way.
    """
    dtype = torch.promote_types(left[0].dtype, torch.float32)
    (a, da), (b, db) = left, right
    a, b = a.to(dtype), b.to(dtype)
    if da is not None and db is not None and min(a.dim(), b.dim()) > 2:
        found = ops.product_difference(a, da, b, db, narrow)
        if found is not None:
            return found
    da, db = (None if each is None else each.to(dtype) for each in (da, db))
    if a.dim() == 1:
        a, da = a.unsqueeze(0), None if da is None else da.unsqueeze(1)
    if b.dim() == 1:
        b, db = b.unsqueeze(1), None if db is None else db.unsqueeze(2)
    rank = max(a.dim(), b.dim())
    result = None
    if da is not None:
        da = mode.align(da, rank)
        result = _times_shared(factor(da), factor(b))
    if db is not None:
        moved = a if da is None else a + da
        second = factor(moved) @ factor(mode.align(db, rank))
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
    if not defer(mode, base, input, matrix_of(mode, other)):
        mode.apply(_matmul_rule, base, function, (input, other), {})
    return base


def _matmul_rule(mode: DifferenceMode, base: Tensor, input: Tensor, other: Tensor) -> Any:
    return _product_of(mode, base, input, other, rounded=True)


def _product_of(
    mode: DifferenceMode, base: Tensor, left: Tensor, right: Tensor, rounded: bool = False
) -> Tensor | None:
    """Δ(left @ right), by the fused layer if one of them is a trained matrix.

    With ``rounded`` it may have the dtype of its level: nothing is added to it first.
    """
    result = fused(mode, left, right)
    if result is None:
        factors = (left, mode.difference(left)), (right, mode.difference(right))
        result = product(mode, base, *factors, mode.level if rounded else torch.float32)
    return result


@handler("__rmatmul__")
def rmatmul_handler(mode: DifferenceMode, function: Callable, args: tuple, kwargs: dict) -> Tensor:
    """``other @ self`` with the operands in the other order."""
    return _matmul(mode, torch.matmul, args[1], args[0])


_FACTORS = {"addmm": ("mat1", "mat2"), "baddbmm": ("batch1", "batch2"), "addmv": ("mat", "vec")}


@handler("addmm", "baddbmm", "addmv")
def added_handler(mode: DifferenceMode, function: Callable, args: tuple, kwargs: dict) -> Tensor:
    """``beta·input + alpha·left@right``: of a trained matrix and bias it is the linear layer it stands for."""
    names = ("input", *_FACTORS[function.__name__])
    operands = (*args[:3], *(kwargs[name] for name in names[len(args) :] if name in kwargs))
    factors = {name: value for name, value in kwargs.items() if name not in names}
    if not is_dense(operands) or len(operands) < 3 or len(args) > 3:
        return fallback.handle(mode, function, args, kwargs)
    if not mode.carries(operands):
        return function(*args, **kwargs)
    base = mode.once(function, *operands, **factors)
    input, left, right = operands
    if all(value == 1 for value in factors.values()):
        bias_id = _bias_id(mode, base, input)
        if bias_id is not None and defer(mode, base, left, matrix_of(mode, right), bias_id):
            return base
    return mode.apply(_added, base, function, operands, factors)


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
    result = _product_of(mode, base, left, right)
    if result is not None and alpha != 1:
        result = result * alpha
    return _plus(mode, base, result, input, beta)
