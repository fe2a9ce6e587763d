"""The base pass on record, so that the closure runs once however many chunks the directions are cut into.

While the first chunk is evaluated, each function that met a difference is written down with its handler, its
arguments and its base results. For every other chunk the same handlers go through the record: they take the base
results from it and compute differences alone. Then a chunk may be as small as the caches like.

A base tensor that dies in the closure must die at the same place in a replay, where its difference dies with it.
So the record holds no tensor of the closure's, but another one that looks at the same memory, and notes the deaths.
What it can't hold (writes to memory that carries differences, tensors that were changed after they had been used,
more bytes than the budget) it gives up; the closure then runs once for each chunk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import Parameter

from zo_triton.difference.memories import address_of, is_outside

if TYPE_CHECKING:
    from zo_triton.difference.mode import DifferenceMode


class Call(NamedTuple):
    """A function that met a difference."""

    handle: Callable[..., Any]
    function: Callable[..., Any]
    args: tuple
    kwargs: dict
    made: list[Any]
    """What :meth:`DifferenceMode.once` returned, in order."""
    result: Any


class Death(NamedTuple):
    """The end of a base tensor."""

    tensor: Tensor


class MismatchError(Exception):
    """A handler made its base result anew in a replay: its differences would hang on a tensor nobody knows."""


class Recorder:
    """Writes a run of the closure down.

    Args:
        budget: Bytes of base results that may be kept alive.

    Attributes:
        lost: Why there will be no tape; None as long as there may be one.
    """

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.lost: str | None = None
        self._events: list[Call | Death] = []
        self._stand_ins: dict[int, Tensor] = {}
        self._made: list[Any] = []
        self._memories: set[int] = set()
        self._bytes = 0
        self._versions: list[tuple[Tensor, int]] = []
        self._outside: dict[tuple, tuple[Tensor, Tensor]] = {}

    def once(self, function: Callable[..., Any], args: tuple, kwargs: dict) -> Any:
        """Runs a part of the base pass, and keeps what it makes."""
        made = function(*args, **kwargs)
        if self.lost is None:
            self._made.append(made)
        return made

    def run(
        self, mode: DifferenceMode, handle: Callable, function: Callable, args: tuple, kwargs: dict
    ) -> Any:
        """Runs a handler and writes it down, unless the functions that it calls under the mode were.

        What takes no difference or gives none is constant, and no handler needs to see it again.
        """
        if self.lost is not None or not mode.carries(args, kwargs):
            return handle(mode, function, args, kwargs)
        outer, self._made, before = self._made, [], len(self._events)
        arguments = self._standing_in(args), self._standing_in(kwargs)
        try:
            result = handle(mode, function, args, kwargs)
            in_pieces = any(isinstance(event, Call) for event in self._events[before:])
            if self.lost is None and not in_pieces and self._adopt(mode, result):
                self._adopt(mode, self._made)
                made = self._standing_in(self._made)
                self._events.append(Call(handle, function, *arguments, made, self._standing_in(result)))
                self._note_versions(arguments)
                self._count((arguments, made))
        finally:
            self._made = outer
        return result

    def died(self, key: int) -> None:
        """A base tensor with a difference is gone."""
        stand_in = self._stand_ins.pop(key, None)
        if stand_in is not None and self.lost is None:
            self._events.append(Death(stand_in))

    def overwritten(self, target: Tensor) -> None:
        """A tensor without a difference is about to be written to, which ``x.data`` keeps from its version."""
        if address_of(target) in self._memories:
            self.give_up("a tensor was changed after a function had used it")

    def give_up(self, why: str) -> None:
        """There will be no tape."""
        self.lost = why
        self._made.clear()
        self._events.clear()
        self._stand_ins.clear()
        self._versions.clear()
        self._outside.clear()

    def finished(self, value: Tensor) -> Tape | None:
        """The tape of a run that returned ``value``; None if it was lost."""
        if self.lost is None and any(_version(tensor) != version for tensor, version in self._versions):
            self.give_up("a tensor was changed after a function had used it")
        if self.lost is None and not all(map(_is_unchanged, self._outside.values())):
            self.give_up("an array was changed that shares its memory with a tensor")
        if self.lost is not None:
            return None
        return Tape(list(self._events), self._standing_in(value))  # what dies from now on lives on the tape

    def _adopt(self, mode: DifferenceMode, value: Any) -> bool:
        """Gives each new base tensor with a difference its stand-in; whether there is a difference at all."""
        if isinstance(value, (list, tuple)):
            return max([self._adopt(mode, each) for each in value], default=False)  # all of them, not any
        if not isinstance(value, Tensor):
            return False
        key = id(value)
        if key not in mode.entries:
            return False
        if key not in self._stand_ins:
            self._stand_ins[key] = value.detach()
        return True

    def _count(self, kept: Any) -> None:
        """Counts the memory of tensors that an event keeps; parameters live on without it."""
        for tensor in _tensors_in(kept):
            if tensor.layout is not torch.strided:
                continue
            if self.lost is None and is_outside(tensor):
                look = tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride()
                self._outside.setdefault(look, (tensor, tensor.clone()))
            storage = tensor.untyped_storage()
            whole = tensor._base if tensor._is_view() else tensor
            if storage._cdata in self._memories:
                continue
            self._memories.add(storage._cdata)
            self._bytes += 0 if isinstance(whole, Parameter) else storage.nbytes()
        if self.lost is None and self._bytes > self.budget:
            self.give_up(f"the base results take more than {self.budget} bytes")

    def _standing_in(self, value: Any) -> Any:
        """The value with stand-ins in place of the closure's tensors, and copies of what the closure may change."""
        if isinstance(value, Tensor):
            return self._stand_ins.get(id(value), value)
        if isinstance(value, dict):
            return {key: self._standing_in(each) for key, each in value.items()}
        if isinstance(value, (list, tuple)):
            parts = [self._standing_in(each) for each in value]
            if isinstance(value, list):
                return parts
            return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
        return value.copy() if isinstance(value, np.ndarray) else value

    def _note_versions(self, value: Any) -> None:
        self._versions += [(tensor, _version(tensor)) for tensor in _tensors_in(value)]


class Tape:
    """A base pass on record.

    Args:
        events: The functions that met a difference, and the ends of base tensors, in order.
        value: What the closure returned, a tensor of the record's own.
    """

    def __init__(self, events: list[Call | Death], value: Tensor) -> None:
        self._events = events
        self.value = value

    def replay(self, mode: DifferenceMode) -> None:
        """Fills a mode's table with the differences along its own directions.

        Raises:
            MismatchError: A handler does not keep to :meth:`DifferenceMode.once`.
        """
        replayed = Replayed()
        mode.tape = replayed
        for event in self._events:
            if isinstance(event, Death):
                mode.drop(id(event.tensor))
                continue
            replayed.made = iter(event.made)
            if not _same(event.handle(mode, event.function, event.args, event.kwargs), event.result):
                raise MismatchError(f"{event.function} made its base result anew")


class Replayed:
    """Stands in for a :class:`Recorder` while its tape is replayed.

    Attributes:
        made: What the base pass made in the present handler and has not been asked for yet.
    """

    made: Iterator[Any]

    def once(self, function: Callable[..., Any], args: tuple, kwargs: dict) -> Any:
        """What this part of the base pass made."""
        return next(self.made)

    def died(self, key: int) -> None:
        """The tape's own tensors live until it is gone itself."""


def _same(found: Any, expected: Any) -> bool:
    """Whether these are the same tensors, or sequences of the same."""
    if isinstance(expected, (list, tuple)):
        return len(found) == len(expected) and all(map(_same, found, expected))
    return found is expected


def _is_unchanged(pair: tuple[Tensor, Tensor]) -> bool:
    """Whether a tensor holds what its copy held, NaN for NaN: bit for bit."""
    now, before = (each.contiguous().flatten().view(torch.uint8) for each in pair)
    return torch.equal(now, before)


def _tensors_in(value: Any) -> list[Tensor]:
    """The tensors in lists, tuples and dictionaries, each as often as it stands there.

    Torch's own walk over such trees takes as long as all else that is written down of a function.
    """
    found, todo = [], [value]
    while todo:
        each = todo.pop()
        if isinstance(each, Tensor):
            found.append(each)
        elif isinstance(each, (list, tuple)):
            todo += each
        elif isinstance(each, dict):
            todo += each.values()
    return found


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version
