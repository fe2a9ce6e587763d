"""Rules run on symbols once for each form of their arguments, and remembered."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from zo_triton import ops
from zo_triton.difference.chains.symbols import Symbolic, Trace, UntraceableError
from zo_triton.difference.errors import UncoveredError

if TYPE_CHECKING:
    from zo_triton.difference.mode import DifferenceMode

LONGEST_ROW = 1 << 14
"""Features of a program that needs whole rows: a block is at least one."""

MOST_FORMULAS = 4096
"""That are remembered; a closure whose shapes change all the time would fill the memory."""


class Formula:
    """A rule's difference as operations.

    Attributes:
        operations: As in a trace.
        result: The value of the rule's result.
        bases: The arguments whose base it reads, by their places; the result's own stands behind the last.
        differences: The arguments whose differences it reads.
        features: Length of its rows; 1 where it has one value a row.
        wide: Its result is float32 whatever the compute dtype.
    """

    __slots__ = ("bases", "differences", "features", "operations", "result", "wide")

    def __init__(self, trace: Trace, result: Symbolic, slots: int, features: int, wide: bool) -> None:
        self.operations = tuple(trace.operations)
        self.result = result.value
        read = {
            value for _, values in self.operations for value in values if type(value) is int and value < 0
        }
        if type(result.value) is int and result.value < 0:
            read.add(result.value)
        self.bases = tuple(slot for slot in range(slots) if base_value(slot) in read)
        self.differences = tuple(slot for slot in range(slots) if difference_value(slot) in read)
        self.features = features
        self.wide = wide


def base_value(slot: int) -> int:
    """The value that stands for an argument."""
    return -1 - 2 * slot


def difference_value(slot: int) -> int:
    """The value that stands for its difference."""
    return -2 - 2 * slot


class _Tracer:
    """What a rule sees of the mode while it runs on symbols."""

    def __init__(self, trace: Trace, evaluations: int) -> None:
        self.evaluations = evaluations
        self.compute_dtype = torch.float32
        self.wide = False
        self.nodes = None
        self._trace = trace
        self._carrying: dict[int, int] = {}
        self._asked: set[int] = set()
        self._features: list[int] = []

    def stand_in(self, slot: int, tensor: Tensor, carries: bool) -> Symbolic:
        """The symbol of an argument."""
        mask = tensor.dtype == torch.bool
        symbol = Symbolic(self._trace, base_value(slot), tensor.shape, False, mask, tensor.dtype)
        if carries:
            self._carrying[id(symbol)] = slot
        return symbol

    @property
    def passed_over(self) -> bool:
        """Whether the rule has not asked for a difference that there is."""
        return not self._asked.issuperset(self._carrying)

    def difference(self, value: Any) -> Symbolic | None:
        self._asked.add(id(value))
        slot = self._carrying.get(id(value))
        if slot is None:
            return None
        shape = torch.Size((self.evaluations, *value.shape))
        return Symbolic(self._trace, difference_value(slot), shape, True)

    def needed(self, value: Any) -> Symbolic:
        difference = self.difference(value)
        if difference is None:
            raise UncoveredError
        return difference

    def carries(self, args: Any) -> bool:
        return any(id(value) in self._carrying for value in args)

    def ignore(self, *values: Any) -> None:
        self._asked.update(map(id, values))

    def align(self, difference: Symbolic, dimensions: int) -> Symbolic:
        missing = dimensions - difference.dim() + 1
        if missing <= 0:
            return difference
        return difference.reshape(difference.shape[0], *[1] * missing, *difference.shape[1:])


_READ = frozenset((torch.float32, torch.bfloat16, torch.bool))
_PLAIN = (Tensor, torch.nn.Parameter)

_known: dict[tuple, Formula | None] = {}


def formula_of(
    mode: DifferenceMode,
    compute: Callable,
    base: Tensor,
    args: tuple,
    kwargs: dict[str, Any],
    tensors: list[Tensor],
) -> Formula | None:
    """The formula of a rule for arguments of this form; None if it can't be traced.

    Args:
        mode: Says which arguments carry a difference.
        compute: The rule.
        base: The function's result.
        args: Its positional arguments.
        kwargs: Its keyword arguments.
        tensors: Gets the arguments that are tensors, and the result as the last one.
    """
    form: list[Any] = [compute, mode.evaluations, base.shape, base.dtype]
    entries, ids, memories = mode.entries, mode.ids, mode.memories
    form += kwargs
    for value in (*args, *kwargs.values()):
        if isinstance(value, Tensor):
            if not fits(value):
                return None
            place = id(value)
            carries = place in entries or place in ids or bool(memories and memories.find(value) is not None)
            form.append((value.shape, value.dtype, carries))
            tensors.append(value)
        elif type(value) is list:
            form.append(tuple(value))
        else:
            form.append((type(value), value))
    tensors.append(base)
    try:
        key = tuple(form)
        if key in _known:
            return _known[key]
    except TypeError:  # an argument that has no hash
        return None
    _make_room()
    found = _known[key] = _traced(mode.evaluations, mode.carries, compute, base, args, kwargs)
    return found


def formula_of_one(evaluations: int, compute: Callable, base: Tensor, form: tuple) -> Formula | None:
    """The formula of a rule of one tensor that carries a difference and has the result's shape.

    Args:
        evaluations: P.
        compute: The rule.
        base: The tensor, float32.
        form: Tells the rule from others.
    """
    key = (*form, evaluations, base.shape)
    if key not in _known:
        _make_room()
        _known[key] = _traced(evaluations, lambda values: True, compute, base, (base,), {})
    return _known[key]


def _make_room() -> None:
    if len(_known) >= MOST_FORMULAS:
        _known.clear()


def fits(tensor: Tensor) -> bool:
    """Whether programs can read a tensor."""
    return (
        tensor.dtype in _READ
        and tensor.layout is torch.strided
        and tensor.is_cpu
        and type(tensor) in _PLAIN
        and not tensor.is_neg()
    )


def _traced(
    evaluations: int,
    carries: Callable[[tuple], bool],
    compute: Callable,
    base: Tensor,
    args: tuple,
    kwargs: dict,
) -> Formula | None:
    """Runs a rule on symbols; None if that does not work, and it has to run on tensors."""
    trace = Trace()
    tracer = _Tracer(trace, evaluations)
    slots = 0

    def stand_in(value: Any) -> Any:
        nonlocal slots
        if not isinstance(value, Tensor):
            return value
        slots += 1
        return tracer.stand_in(slots - 1, value, carries((value,)))

    symbols = [stand_in(value) for value in args]
    named = {name: stand_in(value) for name, value in kwargs.items()}
    of_base = tracer.stand_in(slots, base, False)
    try:
        result = compute(tracer, of_base, *symbols, **named)
        if not isinstance(result, Symbolic) or not result.varies or tracer.passed_over:
            return None
        if result.shape != (evaluations, *base.shape) or result.mask:
            return None
    except (UntraceableError, UncoveredError, AttributeError, TypeError, ValueError, RuntimeError):
        return None  # on tensors it may go, or fail for the user to see
    features = max([base.shape[-1] if base.dim() else 1, *trace.lengths])
    if features != 1 and any(length not in (1, features) for length in trace.lengths):
        return None
    if features > LONGEST_ROW and ops.needs_whole_rows(name for name, _ in trace.operations):
        return None
    return Formula(trace, result, slots + 1, features, tracer.wide)
