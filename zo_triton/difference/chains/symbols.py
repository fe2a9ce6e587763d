"""A stand-in for a tensor in a formula: what torch would compute with it is written down instead.

So each formula stands in one place, and runs in two ways: on tensors, operation after operation, or on symbols,
which gives a program that passes through memory once. Whatever has no operation here raises
:class:`UntraceableError`, and the formula runs on tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from zo_triton import ops


class UntraceableError(Exception):
    """A formula does what no program can."""


class Trace:
    """What has been written down: the operations in their order, each with its values.

    A value is an operation's place, a leaf's place l as −1 − l, or a number as a Python float.

    Attributes:
        operations: Name and values of each.
        lengths: Sizes of the last axis that there are.
    """

    def __init__(self) -> None:
        self.operations: list[tuple[str, tuple[int | float, ...]]] = []
        self.lengths: set[int] = set()

    def add(
        self, name: str, values: tuple[int | float, ...], shape: torch.Size, varies: bool, mask: bool = False
    ) -> Symbolic:
        """Another operation, and its result."""
        self.operations.append((name, values))
        self.lengths.add(shape[-1] if len(shape) > varies else 1)
        return Symbolic(self, len(self.operations) - 1, shape, varies, mask)


class Symbolic:
    """Stands for a tensor, or a condition, of a base [*shape] or of differences [P, *shape].

    Attributes:
        value: Its number in the trace, or a Python float.
        shape: As a tensor's.
        varies: It has the P axis.
        mask: It is a condition.
        dtype: A base's own; everything is computed in float32.
    """

    __slots__ = ("dtype", "mask", "shape", "trace", "value", "varies")

    def __init__(
        self,
        trace: Trace,
        value: int | float,
        shape: torch.Size,
        varies: bool,
        mask: bool = False,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.trace, self.value, self.shape, self.varies, self.mask = trace, value, shape, varies, mask
        self.dtype = torch.bool if mask else dtype

    device = torch.device("cpu")
    layout = torch.strided

    def dim(self) -> int:
        """Axes, the P axis among them."""
        return len(self.shape)

    def numel(self) -> int:
        """Elements of the tensor."""
        return self.shape.numel()

    @classmethod
    def __torch_function__(cls, function: Callable, types: Any, args: tuple = (), kwargs: Any = None) -> Any:
        operation = _FUNCTIONS.get(function)
        if operation is None:
            raise UntraceableError(f"{function} has no operation")
        return operation(*args, **(kwargs or {}))

    def __getattr__(self, name: str) -> Callable:
        operation = _METHODS.get(name)
        if operation is None:
            raise UntraceableError(f"a symbol has no {name}")
        return lambda *args, **kwargs: operation(self, *args, **kwargs)

    def __bool__(self) -> bool:
        raise UntraceableError("a formula asks for a value")

    __float__ = __int__ = __index__ = __len__ = __iter__ = __bool__

    def __neg__(self) -> Symbolic:
        return _unary("neg")(self)

    def __invert__(self) -> Symbolic:
        return self.trace.add("not", (self.value,), self.shape, self.varies, True)

    def __abs__(self) -> Symbolic:
        return _unary("abs")(self)

    def __pow__(self, exponent: Any) -> Any:
        if type(exponent) is not int or not 1 <= exponent <= 4:
            raise UntraceableError("only small powers")
        result: Any = self
        for _ in range(exponent - 1):
            result = result * self
        return result


def _operands(a: Any, b: Any) -> tuple[Trace, int | float, int | float, torch.Size, bool]:
    """Two operands as values, and what their result looks like.

    Raises:
        UntraceableError: One is a tensor that the trace does not know, or the axes do not fit.
    """
    first, second = _known(a), _known(b)
    shapes = [each.shape for each in (first, second) if isinstance(each, Symbolic)]
    varies = [each for each in (first, second) if isinstance(each, Symbolic) and each.varies]
    for each in (first, second):
        if isinstance(each, Symbolic) and varies and not each.varies and each.dim() >= varies[0].dim():
            raise UntraceableError("axes of a base would meet the P axis")
    if len(varies) == 2 and varies[0].dim() != varies[1].dim():
        raise UntraceableError("two P axes in different places")
    found = first if isinstance(first, Symbolic) else second
    assert isinstance(found, Symbolic)
    # Torch's own function for this loads SymPy.
    shape = shapes[0] if len(set(shapes)) == 1 else torch.Size(np.broadcast_shapes(*shapes))
    values = [each.value if isinstance(each, Symbolic) else each for each in (first, second)]
    return found.trace, values[0], values[1], shape, bool(varies)


def _known(value: Any) -> Symbolic | float:
    if isinstance(value, Symbolic):
        return value
    if isinstance(value, Tensor) and value.dim() == 0 and not value.is_nonzero():
        return 0.0  # made by the formula; what it closes over is refused
    if type(value) in (int, float, bool):
        return float(value)
    raise UntraceableError(f"a foreign {type(value).__name__}")


def _binary(name: str, mask: bool = False) -> Callable:
    def operation(a: Any, b: Any, *, alpha: Any = 1) -> Symbolic:
        if alpha != 1:
            b = b * alpha
        trace, first, second, shape, varies = _operands(a, b)
        return trace.add(name, (first, second), shape, varies, mask)

    return operation


def _unary(name: str) -> Callable:
    def operation(a: Symbolic) -> Symbolic:
        if type(a.value) is float:
            raise UntraceableError("a function of a number")
        return a.trace.add(name, (a.value,), a.shape, a.varies)

    return operation


def _where(condition: Symbolic, input: Any, other: Any) -> Symbolic:
    if not isinstance(condition, Symbolic) or not condition.mask:
        raise UntraceableError("a foreign condition")
    parts = [each for each in (condition, input, other) if isinstance(each, Symbolic)]
    shape, varies = parts[0].shape, parts[0].varies
    for each in parts[1:]:
        _, _, _, shape, varies = _operands(Symbolic(condition.trace, 0, shape, varies), each)
    values = [_known(each) for each in (condition, input, other)]
    numbers = tuple(each.value if isinstance(each, Symbolic) else each for each in values)
    return condition.trace.add("where", numbers, shape, varies)


def _clamp(a: Symbolic, min: Any = None, max: Any = None) -> Symbolic:
    if min is not None:
        a = _binary("maximum")(a, min)
    return a if max is None else _binary("minimum")(a, max)


def _sum(a: Symbolic, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Symbolic:
    axes = [dim] if isinstance(dim, int) else dim
    if not keepdim or axes is None or list(axes) != [-1] or dtype not in (None, torch.float32):
        raise UntraceableError("only sums along rows")
    if a.dim() - a.varies < 1 or a.shape[-1] == 0:
        raise UntraceableError("there is no row")
    if a.shape[-1] == 1:
        return a  # its own sum, also where a longer row follows in the same program
    a.trace.lengths.add(a.shape[-1])  # the result does not tell it, and nothing else need read the row
    return a.trace.add("row_sum", (a.value,), torch.Size((*a.shape[:-1], 1)), a.varies)


def _turn_halves(a: Symbolic) -> Symbolic:
    """(−second half, first half) of each row, whose length is even."""
    return a.trace.add("turn_halves", (a.value,), a.shape, a.varies)


def _mean(a: Symbolic, dim: Any = None, keepdim: bool = False) -> Any:
    return _div(_sum(a, dim, keepdim), a.shape[-1])


def _softplus(a: Any, beta: Any = 1, threshold: Any = 20) -> Any:
    if beta != 1:
        raise UntraceableError("softplus of another scale")
    return a.clamp(min=0) + torch.log1p((-a.abs()).exp())


def _logsigmoid(a: Any) -> Any:
    return a.clamp(max=0) - torch.log1p((-a.abs()).exp())


def _like(number: float) -> Callable:
    def operation(a: Symbolic) -> Symbolic:
        return Symbolic(a.trace, number, a.shape, a.varies)

    return operation


def _reshape(a: Symbolic, *shape: Any) -> Symbolic:
    """Only axes of size one behind the P axis may come or go."""
    wanted = torch.Size(shape[0] if len(shape) == 1 and not isinstance(shape[0], int) else shape)
    if wanted == a.shape:
        return a
    place = 1 if a.varies else 0
    kept = wanted[:place] + wanted[len(wanted) - len(a.shape) + place :]
    added = wanted[place : len(wanted) - len(a.shape) + place]
    if len(wanted) <= len(a.shape) or kept != a.shape or any(size != 1 for size in added):
        raise UntraceableError("elements change places")
    return Symbolic(a.trace, a.value, wanted, a.varies, a.mask)


def _expand(a: Symbolic, *shape: Any) -> Symbolic:
    """Repeats along axes; whatever reads it repeats it anyway."""
    sizes = list(shape[0] if len(shape) == 1 and not isinstance(shape[0], int) else shape)
    before = [1] * (len(sizes) - a.dim()) + list(a.shape)
    if a.varies and len(sizes) != a.dim():
        raise UntraceableError("an axis before the P axis")
    wanted = torch.Size(had if size == -1 else size for size, had in zip(sizes, before, strict=True))
    if any(had not in (1, size) for size, had in zip(wanted, before, strict=True)):
        raise UntraceableError("does not expand")
    return Symbolic(a.trace, a.value, wanted, a.varies, a.mask)


def _to(a: Symbolic, dtype: Any = torch.float32) -> Symbolic:
    if dtype != torch.float32 or a.mask:
        raise UntraceableError("another type")
    return a if a.dtype == dtype else Symbolic(a.trace, a.value, a.shape, a.varies)


def _activation(base: Any, difference: Any, activation: str) -> Any:
    if activation == "gelu":
        raise UntraceableError("the error function has no operation")
    terms = [_known(each) for each in ops.activation_terms(base, activation)]
    numbers = tuple(each.value if isinstance(each, Symbolic) else each for each in terms)
    trace, moved, a, shape, varies = _operands(difference, base)
    return trace.add(f"activation:{activation}", (moved, a, *numbers), shape, varies)


def _swapped(operation: Callable) -> Callable:
    return lambda a, b: operation(b, a)


_add, _sub, _mul, _div = (_binary(name) for name in ("add", "sub", "mul", "div"))
_and, _or = _binary("and", True), _binary("or", True)
_UNARY: Sequence[str] = ("neg", "abs", "sqrt", "rsqrt", "exp", "expm1", "log", "log1p", "tanh", "sigmoid")

_METHODS: dict[str, Callable] = {
    "add": _add, "add_": _add, "sub": _sub, "mul": _mul, "div": _div, "clamp": _clamp, "sum": _sum, "mean": _mean,
    "clamp_min": lambda a, min: _clamp(a, min), "clamp_max": lambda a, max: _clamp(a, None, max),
    "square": lambda a: a * a, "reciprocal": lambda a: 1.0 / a, "reshape": _reshape, "view": _reshape,
    "expand": _expand, "expand_as": lambda a, other: _expand(a, *other.shape), "to": _to, "float": _to,
    "where": lambda a, condition, other: _where(condition, a, other), "turn_halves": _turn_halves,
    **{name: _unary(name) for name in _UNARY},
}  # fmt: skip

_FUNCTIONS: dict[Any, Callable] = {
    **{getattr(torch, name): _unary(name) for name in _UNARY},
    torch.square: _METHODS["square"], torch.reciprocal: _METHODS["reciprocal"],
    torch.maximum: _binary("maximum"), torch.minimum: _binary("minimum"), torch.where: _where,
    torch.ones_like: _like(1.0), torch.zeros_like: _like(0.0), torch.clamp: _clamp,
    F.softplus: _softplus, F.logsigmoid: _logsigmoid, ops.activation_difference: _activation,
    # A tensor on the left of an operator asks for its method.
    Tensor.add: _add, Tensor.sub: _sub, Tensor.mul: _mul, Tensor.div: _div, Tensor.__rsub__: _swapped(_sub),
}  # fmt: skip

for _name, _operation in (
    ("add", _add), ("sub", _sub), ("mul", _mul), ("truediv", _div), ("gt", _binary("gt", True)),
    ("ge", _binary("ge", True)), ("lt", _binary("lt", True)), ("le", _binary("le", True)),
    ("eq", _binary("eq", True)), ("ne", _binary("ne", True)), ("and", _and), ("or", _or),
):  # fmt: skip
    setattr(Symbolic, f"__{_name}__", _operation)
    if _name in ("add", "sub", "mul", "truediv"):
        setattr(Symbolic, f"__r{_name}__", _swapped(_operation))
Symbolic.__hash__ = object.__hash__  # type: ignore[method-assign]
