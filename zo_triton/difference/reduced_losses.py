"""The samples' losses behind a single number: behind reductions, multiples of them, and sums of such."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import ref

from torch import Tensor

from zo_triton.difference.entries import storage_of

if TYPE_CHECKING:
    from zo_triton.difference.mode import DifferenceMode

_SAME = frozenset((
    "clone", "contiguous", "double", "float", "mean", "positive", "pos", "reshape", "squeeze", "sum", "to", "type",
    "view",
))  # fmt: skip
"""Functions that make of a single number itself, in another dtype perhaps."""


class Losses(NamedTuple):
    """Loss differences before they were reduced.

    Attributes:
        of: The reduced base tensor.
        differences: [P, N] or [P, N, T] float32.
        share: What each counts in the reduced loss: 1/n of a mean.
    """

    of: ref[Tensor]
    differences: Tensor
    share: float | Tensor


class ReducedLosses:
    """What is known of the single numbers that a run has made of samples' losses."""

    def __init__(self) -> None:
        self._known: dict[int, Losses] = {}

    def note(self, base: Tensor, differences: Tensor, share: float | Tensor) -> None:
        """Remembers the loss differences, [P, *shape], that a reduction to ``base`` has made one of."""
        if differences.dim() == 1:
            return
        if differences.dim() > 3:  # the elements of a sample's output: of no use one by one
            differences = differences.flatten(2).sum(2)
        self._known[id(base)] = Losses(ref(base), differences.float(), share)

    def find(self, value: Any) -> Losses | None:
        """The losses behind a tensor, as far as they are known."""
        found = self._known.get(id(value))
        return found if found is not None and found.of() is value else None

    def follow(self, mode: DifferenceMode, base: Any, function: Callable, args: tuple, kwargs: dict) -> None:
        """Remembers the losses behind a function's single number, if it is linear in reduced ones."""
        if not isinstance(base, Tensor) or base.dim() > 0:
            return
        terms = [term for term in _terms(mode, function, args, kwargs) if mode.carries((term[0],))]
        found = [(self.find(value), factor) for value, factor in terms]
        known = [(losses, factor) for losses, factor in found if losses is not None]
        if not known or len(known) < len(found):
            return
        if len(known) == 1:
            [(losses, factor)] = known
            self._known[id(base)] = Losses(ref(base), losses.differences, losses.share * factor)
            return
        parts = [losses.differences * (losses.share * factor) for losses, factor in known]
        if len({part.shape for part in parts}) > 1:
            parts = [part if part.dim() == 2 else part.sum(2) for part in parts]
        if len({part.shape for part in parts}) == 1:
            self._known[id(base)] = Losses(ref(base), sum(parts[1:], parts[0]), 1.0)

    def rename(self, base: Tensor, target: Tensor) -> None:
        """Remembers for a target what is known of the number that was copied there."""
        found = self.find(base)
        if found is not None:
            self._known[id(target)] = found._replace(of=ref(target))

    def forget(self, written: Collection[int]) -> None:
        """Forgets the losses behind numbers in these memories, which are about to be overwritten."""
        for key, losses in list(self._known.items()):
            base = losses.of()
            if base is None or storage_of(base) in written:
                del self._known[key]

    def clear(self) -> None:
        """Forgets all."""
        self._known.clear()


def _terms(
    mode: DifferenceMode, function: Callable, args: Sequence[Any], kwargs: dict
) -> list[tuple[Any, Any]]:
    """The arguments that a function sums up, with their factors; none if it does anything else."""
    name = getattr(function, "__name__", "").strip("_")
    if not args or "rounding_mode" in kwargs:
        return []
    first: Any = args[0]
    other: Any = args[1] if len(args) > 1 else kwargs.get("other")
    alpha = kwargs.get("alpha", 1)
    match name:
        case "neg" | "negative":
            return [(first, -1)]
        case "add" | "radd":
            return [(first, 1), (other, alpha)]
        case "sub" | "subtract":
            return [(first, 1), (other, -alpha)]
        case "rsub":
            return [(other, 1), (first, -alpha)]
        case "mul" | "multiply" | "rmul":
            if mode.carries((other,)):
                first, other = other, first
            return [] if mode.carries((other,)) else [(first, other)]
        case "div" | "divide" | "true_divide" | "truediv":
            divides = not mode.carries((other,)) and (isinstance(other, Tensor) or other != 0)
            return [(first, 1 / other)] if divides else []
    return [(first, 1)] if name in _SAME else []
