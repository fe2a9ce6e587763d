"""Linear systems: of A'X' = B' and AX = B the difference solves A'·ΔX = ΔB − ΔA·X, with nothing subtracted."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from zo_triton.difference.registry import rule

if TYPE_CHECKING:
    from zo_triton.difference.mode import DifferenceMode


def _solved(
    mode: DifferenceMode,
    X: Tensor,
    A: Tensor,
    B: Tensor,
    left: bool,
    solve: Callable[[Tensor, Tensor], Tensor],
    part: Callable[[Tensor], Tensor] = lambda each: each,
) -> Tensor:
    """ΔX, [P, *X.shape].

    Args:
        mode: Supplies the differences.
        X: The base's solution, [*batch, n, k].
        A: The base's matrices, [*, n, n].
        B: The right-hand sides, [*, n, k].
        left: Whether A stands on the left, in AX = B.
        solve: What gives X from A and B, on batches of them.
        part: What of ΔA counts, such as one triangle.
    """
    da, db = mode.difference(A), mode.difference(B)
    right = None if db is None else mode.align(db, X.dim()).to(X.dtype)
    matrix = A
    if da is not None:
        change = mode.align(part(da.to(X.dtype)), X.dim())
        moved = change @ X if left else X @ change
        right = -moved if right is None else right - moved
        matrix = A + change
    if right is None:
        return NotImplemented
    shape = (mode.evaluations, *X.shape)
    return solve(matrix.expand(*shape[:-2], *A.shape[-2:]), right.expand(shape))


@rule("solve", owner=torch.linalg)
def solve(mode: DifferenceMode, base: Tensor, A: Tensor, B: Tensor, *, left: bool = True) -> Any:
    """Matrices on the right, or on the left; vectors are left to the subtraction."""

    def solve(A: Tensor, B: Tensor) -> Tensor:
        return torch.linalg.solve(A, B, left=left)

    if B.dim() == 1 or (A.dim() - 1 == B.dim() and B.shape == A.shape[:-1]):  # torch takes it for vectors
        return NotImplemented
    return _solved(mode, base, A, B, left, solve)


@rule("solve_triangular", owner=torch.linalg)
def solve_triangular(
    mode: DifferenceMode,
    base: Tensor,
    A: Tensor,
    B: Tensor,
    *,
    upper: bool,
    left: bool = True,
    unitriangular: bool = False,
) -> Any:
    """Only the triangle counts, and its diagonal unless that is taken for ones."""
    offset = (1 if upper else -1) if unitriangular else 0

    def part(change: Tensor) -> Tensor:
        return change.triu(offset) if upper else change.tril(offset)

    def solve(A: Tensor, B: Tensor) -> Tensor:
        return torch.linalg.solve_triangular(A, B, upper=upper, left=left, unitriangular=unitriangular)

    return _solved(mode, base, A, B, left, solve, part)


@rule("inv", owner=torch.linalg)
def inv(mode: DifferenceMode, base: Tensor, A: Tensor) -> Tensor:
    """A'·ΔX = −ΔA·X, of AX = 1."""
    change = mode.needed(A).to(base.dtype)
    return -torch.linalg.solve(A + change, change @ base)


@rule("inverse")
def inverse(mode: DifferenceMode, base: Tensor, input: Tensor) -> Tensor:
    """The inverse by its other name."""
    return inv(mode, base, input)
