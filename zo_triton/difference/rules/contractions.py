"""einsum: of an activation and a trained matrix the linear layer it stands for, else linear in each operand."""

from __future__ import annotations

from collections.abc import Callable
from string import ascii_letters
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor

from zo_triton.difference.matrices import Matrix, defer, matrix_of, product_with, symbol_of
from zo_triton.difference.registry import handler, handler_of_any
from zo_triton.difference.rules.multilinear import telescope

if TYPE_CHECKING:
    from zo_triton.difference.mode import DifferenceMode

_by_operands = handler_of_any(telescope)


class Contraction(NamedTuple):
    """``input`` permuted by ``order``, times the matrix, permuted by ``result``: what an equation says."""

    input: Tensor
    order: list[int]
    matrix: Matrix
    result: list[int]


@handler("einsum")
def einsum_handler(mode: DifferenceMode, function: Callable, args: tuple, kwargs: dict) -> Any:
    """One fused product where one of two operands is a trained matrix whose one axis is summed over."""
    found = _contraction(mode, *args) if not kwargs and mode.carries(args) else None
    if found is None:
        return _by_operands(mode, function, args, kwargs)
    base = mode.once(function, *args)
    input, order, matrix, result = found
    in_place = order == sorted(order) and result == sorted(result)
    if in_place and defer(mode, base, input, matrix):
        return base

    def compute(mode: DifferenceMode, base: Tensor, *args: Any) -> Tensor:
        mode.ignore(*args, *(args[1] if isinstance(args[1], (list, tuple)) else ()))
        delta = mode.difference(input)
        if delta is not None:
            delta = delta.permute(0, *(axis + 1 for axis in order))
        product = product_with(mode, input.permute(order), delta, matrix)
        return product.permute(0, *(axis + 1 for axis in result))

    return mode.apply(compute, base, function, args, kwargs)


def _contraction(mode: DifferenceMode, equation: Any, *operands: Any) -> Contraction | None:
    """The operands as one product with a trained matrix; None if they are something else."""
    if len(operands) == 1 and isinstance(operands[0], (list, tuple)):
        operands = tuple(operands[0])
    if not isinstance(equation, str) or len(operands) != 2:
        return None
    if not all(isinstance(each, Tensor) and each.numel() for each in operands):
        return None
    terms, arrow, output = equation.replace(" ", "").partition("->")
    letters = terms.split(",")
    if not arrow or len(letters) != 2:
        return None
    place = 1 if symbol_of(mode, operands[1]) is not None else 0
    input, factor = operands[1 - place], operands[place]
    symbol = symbol_of(mode, factor)
    if (
        symbol is None
        or symbol.batch
        or factor.dim() != 2
        or len(letters[place]) != 2
        or "." in letters[place]
    ):
        return None
    matrix = matrix_of(mode, factor)
    spread = _spread(letters[1 - place], output, equation, input.dim())
    if matrix is None or spread is None:
        return None
    axes, wanted = spread
    summed = [letter for letter in letters[place] if letter in axes and letter not in wanted]
    kept = [letter for letter in letters[place] if letter in wanted and letter not in axes]
    others = [letter for letter in axes if letter not in summed]
    if len(summed) != 1 or len(kept) != 1 or sorted([*others, *kept]) != sorted(wanted):
        return None
    sizes = input.shape[axes.index(summed[0])], factor.shape[letters[place].index(summed[0])]
    if len(set(axes)) != len(axes) or sizes[0] != sizes[1]:
        return None
    matrix = matrix if letters[place][0] == summed[0] else matrix.turned
    order = [axes.index(letter) for letter in (*others, *summed)]
    return Contraction(input, order, matrix, [[*others, *kept].index(letter) for letter in wanted])


def _spread(axes: str, output: str, used: str, dimensions: int) -> tuple[str, str] | None:
    """The letters of an operand and of the result, with letters of their own in place of an ellipsis."""
    missing = dimensions - len(axes.replace("...", ""))
    free = [letter for letter in ascii_letters if letter not in used][: max(0, missing)]
    if ("..." in axes) != ("..." in output) or missing < 0 or len(free) != missing:
        return None
    if missing and "..." not in axes:
        return None
    hidden = "".join(free)
    return axes.replace("...", hidden), output.replace("...", hidden)
