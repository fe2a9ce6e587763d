"""Products and sums of several tensors in pieces: prod, diff, trapezoid, cross, addr, multi_dot and their like."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce, wraps
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from zo_triton.difference.registry import named, register
from zo_triton.difference.rules.composed import in_pieces, left_out, under_the_mode

if TYPE_CHECKING:
    from zo_triton.difference.mode import DifferenceMode


def _prod(input: Tensor, dim: int | None = None, keepdim: bool = False, *, dtype: Any = None) -> Tensor:
    """Half by half, so that as few products as possible stand in a row; never a view, which may be written to."""
    input = input if dtype is None else input.to(dtype)
    if dim is None:
        input, dim = input.reshape(-1), 0
    elif input.dim() == 0:
        return input.clone()
    if input.shape[dim] == 0:
        return torch.ones_like(input.sum(dim, keepdim))
    input = input.clone() if input.shape[dim] == 1 else input
    while (size := input.shape[dim]) > 1:
        halves = input.narrow(dim, 0, size // 2) * input.narrow(dim, size // 2, size // 2)
        input = torch.cat([halves, input.narrow(dim, size - 1, 1)], dim) if size % 2 else halves
    return (input if keepdim else input.squeeze(dim)).contiguous()


def _diff(
    input: Tensor, n: int = 1, dim: int = -1, prepend: Tensor | None = None, append: Tensor | None = None
) -> Tensor:
    if n == 0:
        return input.clone()
    parts = [each for each in (prepend, input, append) if each is not None]
    input = torch.cat(parts, dim) if len(parts) > 1 else input
    for _ in range(min(n, input.shape[dim])):
        rest = input.shape[dim] - 1
        input = input.narrow(dim, 1, rest) - input.narrow(dim, 0, rest)
    return input


def _strips(y: Tensor, x: Tensor | None, dx: Any, dim: int) -> Tensor:
    """The areas between neighbours along an axis."""
    rest = max(0, y.shape[dim] - 1)
    sums = y.narrow(dim, min(1, y.shape[dim]), rest) + y.narrow(dim, 0, rest)
    if x is None:
        return sums * ((1 if dx is None else dx) / 2)
    if x.dim() == 1:
        x = x.view(-1, *[1] * (y.dim() - 1 - dim % y.dim()))
    return sums * _diff(x, 1, dim - y.dim() if dim >= 0 else dim) / 2


def _trapezoid(y: Tensor, x: Tensor | None = None, *, dx: Any = None, dim: int = -1) -> Tensor:
    return _strips(y, x, dx, dim).sum(dim)


def _cumulative_trapezoid(y: Tensor, x: Tensor | None = None, *, dx: Any = None, dim: int = -1) -> Tensor:
    return _strips(y, x, dx, dim).cumsum(dim)


def _dist(input: Tensor, other: Tensor, p: float = 2.0) -> Tensor:
    return torch.linalg.vector_norm(input - other, p)


def _cross_along(input: Tensor, other: Tensor, *, dim: int = -1) -> Tensor:
    one, two = torch.broadcast_tensors(input, other)
    return one.roll(-1, dim) * two.roll(-2, dim) - one.roll(-2, dim) * two.roll(-1, dim)


def _cross(input: Tensor, other: Tensor, dim: int | None = None) -> Tensor:
    """Along the first axis of three if none is given."""
    shape = torch.broadcast_shapes(input.shape, other.shape)
    return _cross_along(input, other, dim=list(shape).index(3) if dim is None else dim)


def _scaled_sum(input: Tensor, product: Tensor, beta: Any, alpha: Any) -> Tensor:
    """A factor of zero leaves the first out, whatever is in it."""
    product = product * alpha
    return product if beta == 0 else input * beta + product


def _addr(input: Tensor, vec1: Tensor, vec2: Tensor, *, beta: Any = 1, alpha: Any = 1) -> Tensor:
    return _scaled_sum(input, torch.outer(vec1, vec2), beta, alpha)


def _addbmm(input: Tensor, batch1: Tensor, batch2: Tensor, *, beta: Any = 1, alpha: Any = 1) -> Tensor:
    return _scaled_sum(input, torch.bmm(batch1, batch2).sum(0), beta, alpha)


def _matmul(input: Tensor, other: Tensor) -> Tensor:
    return input @ other


def _multi_dot(tensors: Sequence[Tensor]) -> Tensor:
    return reduce(_matmul, tensors)


def _chain_matmul(*matrices: Any) -> Tensor:
    factors = matrices[0] if isinstance(matrices[0], (list, tuple)) else matrices
    return _multi_dot(factors) if len(factors) > 1 else factors[0].clone()


_into_a_new_tensor = under_the_mode(_chain_matmul, asks_torch=True)


@wraps(_chain_matmul)
def _handle_chain_matmul(mode: DifferenceMode, function: Callable, args: tuple, kwargs: dict) -> Any:
    """Torch hands no mode the tensor that the product is to be written to, and nothing would be written."""
    out = left_out(torch.chain_matmul, "out")
    if out is None:
        return _into_a_new_tensor(mode, function, args, kwargs)
    with mode:
        return out.copy_(torch.chain_matmul(*args))


def _vecdot(x: Tensor, y: Tensor, *, dim: int = -1) -> Tensor:
    return (x.conj() * y).sum(dim)


def _diagonal(A: Tensor, *, offset: int = 0, dim1: int = -2, dim2: int = -1) -> Tensor:
    return torch.diagonal(A, offset, dim1, dim2)


in_pieces(named("prod"), _prod)
in_pieces(named("diff"), _diff)
in_pieces(named("trapezoid", "trapz"), _trapezoid)
in_pieces(named("cumulative_trapezoid"), _cumulative_trapezoid)
in_pieces(named("dist"), _dist)
in_pieces([torch.linalg.cross], _cross_along)
in_pieces([torch.cross, Tensor.cross], _cross)
in_pieces(named("addr"), _addr)
in_pieces(named("addbmm"), _addbmm)
in_pieces([torch.linalg.multi_dot], _multi_dot)
register([torch.chain_matmul], _handle_chain_matmul)
in_pieces([torch.linalg.vecdot], _vecdot)
in_pieces([torch.linalg.diagonal], _diagonal)
in_pieces([torch.linalg.matmul], _matmul, asks_torch=False)
