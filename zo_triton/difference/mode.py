"""The mode under which a closure runs: every torch function passes through and leaves its difference."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn
from weakref import ref

import torch
from torch import Tensor
from torch._C import _is_torch_function_enabled
from torch._C._functorch import peek_interpreter_stack
from torch.overrides import TorchFunctionMode

from zo_triton._interrupts import gate, unbroken
from zo_triton._memory import empty
from zo_triton.difference import doors, elsewhere, fallback, infinities, inplace, transforms
from zo_triton.difference.entries import Entry, Symbol, storage_of
from zo_triton.difference.errors import UncoveredError
from zo_triton.difference.memories import Memories
from zo_triton.difference.plan import Plan, RestartError
from zo_triton.difference.registry import COMPLEX, HANDLERS, Handler, has_complex, spelled
from zo_triton.difference.tape import Recorder, Replayed
from zo_triton.difference.written import Written
from zo_triton.directions import Directions
from zo_triton.ops.engines import is_large, wider
from zo_triton.ops.registry import call

if TYPE_CHECKING:
    from zo_triton.difference.nodes import Nodes
    from zo_triton.difference.watch import Watch

_WITHOUT_RULE: dict[Any, Handler] = {}
"""Handlers of the functions without a rule that have been met so far: by name, in place or not."""


class DifferenceMode(TorchFunctionMode):
    """Holds the table base tensor → difference while a closure runs.

    The base tensors stay ordinary tensors: ``.item()``, printing and control flow see the base. Differences
    have shape [P, *shape] with P = K·sides, evaluation p walking direction p // sides.

    Args:
        params: The trained parameters; a tensor's id is its position here.
        directions: The chunk of directions that this run evaluates.
        signed_eps: [P] float32, sε of each evaluation times its direction's scale.
        compute_dtype: Of the activations' differences.
        plan: How careful to be; see :class:`Plan`.
        budget: The most bytes that one difference may take.
        strict: Refuse functions without a rule.
        nodes: Where layers' outputs are perturbed, what the run remembers of them.

    Attributes:
        written: What the closure overwrote, beside what it made itself.
        watch: Looks out for operations that pass this mode by; None if nobody does.
        updated: Addresses of the running statistics that moving activations have updated.
        tape: Writes the run down, or stands for one that was; None if nobody wants it.
    """

    def __init__(
        self,
        params: Sequence[Tensor],
        directions: Directions,
        signed_eps: Tensor,
        compute_dtype: torch.dtype,
        plan: Plan,
        budget: int,
        strict: bool,
        nodes: Nodes | None = None,
    ) -> None:
        super().__init__()
        self.params = params
        self.ids = {id(parameter): position for position, parameter in enumerate(params)}
        self.nodes = nodes
        self.directions = directions if nodes is None else nodes.directions
        self.signed_eps = signed_eps
        self.evaluations = signed_eps.numel()
        self.sides = self.evaluations // directions.num
        self.compute_dtype = compute_dtype
        self.plan, self.strict = plan, strict
        self.entries: dict[int, Entry] = {}
        self.memories = Memories()
        self.written = Written()
        self.watch: Watch | None = None
        self.tape: Recorder | Replayed | None = None
        self.updated: set[int] = set()
        self.used = self.wide = self.complex = False
        self.layers = 0
        self._fetched: list[Entry] = []
        self._asked: set[int] = set()
        self._wider = wider(signed_eps.device)
        self._most = budget // (self.evaluations * compute_dtype.itemsize)
        self.budget, self._gate = budget, gate()

        @unbroken
        def dropped(key: int, reference: ref[Tensor]) -> None:
            self.drop(key)

        self._dropped = dropped

    def __torch_function__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        """Runs the function's handler; the mode is off inside it, and an interrupt waits for its end."""
        if self._gate is None:
            return self._handled(func, types, args, kwargs or {})
        return self._gate.waiting(self._handled, func, types, args, kwargs or {})

    def _handled(self, func: Callable, types: Any, args: tuple, kwargs: dict) -> Any:
        if self.nodes is not None:
            self.nodes.met(func, args, kwargs)
        if peek_interpreter_stack() is not None:
            transforms.check(self, func, args, kwargs)
        if types and types[0] is not Tensor and _is_torch_function_enabled() and doors.is_own(types):
            return doors.own(self, func, types, args, kwargs)
        elsewhere.check(self, func, args, kwargs)
        if kwargs:
            if kwargs.get("generator") is not None:
                self.written.remember_generator(kwargs["generator"])
            if kwargs.get("inplace") is True or kwargs.get("out") is not None:
                return self._unwatched(inplace.with_target, func, args, kwargs)
            kwargs = spelled(func, kwargs)
        rules = COMPLEX if self.complex and has_complex(args, kwargs) else HANDLERS
        handle = rules.get(func) or _WITHOUT_RULE.get(func)
        if handle is None:
            handle = _WITHOUT_RULE[func] = inplace.handler_for(func) or fallback.handle
        return self._unwatched(handle, func, args, kwargs)

    def _unwatched(self, handle: Handler, func: Callable, args: tuple, kwargs: dict) -> Any:
        """Runs a handler, whose operations are no business of the watch, and has it written down on a tape."""
        watch, tape = self.watch, self.tape
        if self._wider is not None and is_large(args) and not self.carries(args, kwargs):
            handle = partial(self._wider, handle)
        if watch is not None and not watch.look_away():
            watch = None
        try:
            if isinstance(tape, Recorder):
                return tape.run(self, handle, func, args, kwargs)
            return handle(self, func, args, kwargs)
        finally:
            if watch is not None:
                watch.look_again()

    def once(self, function: Callable, /, *args: Any, **kwargs: Any) -> Any:
        """Runs a part of the base pass: each base result, and whatever else must not differ between the chunks.

        A handler asks for it here, and nowhere else, so that a replay can give it what the first run made.
        """
        if self._wider is not None and is_large(args):
            function = partial(self._wider, function)
        return function(*args, **kwargs) if self.tape is None else self.tape.once(function, args, kwargs)

    @property
    def level(self) -> torch.dtype:
        """The dtype of what a rule makes of the differences that it has fetched so far."""
        return torch.float32 if self.wide else self.compute_dtype

    def carries(self, args: Any, kwargs: dict | None = None) -> bool:
        """Whether any argument is a trained parameter or carries a difference; lists are searched."""
        entries, ids, memories = self.entries, self.ids, self.memories
        for value in args:
            key = id(value)
            if key in entries or key in ids:
                return True
            if memories and memories.find(value) is not None:
                return True
            if type(value) in (list, tuple) and self.carries(value):
                return True
        return kwargs is not None and self.carries(kwargs.values())

    def difference(self, value: Any) -> Tensor | None:
        """The difference [P, *shape] of an argument, computed now if pending; None if it carries none."""
        entry = self.entry_of(value)
        if entry is not None:
            result = self.resolve(entry) if entry.difference is None else entry.difference
            self._fetched.append(entry)
            if result.dtype != self.compute_dtype:
                self.wide = True
            return result
        position = self.ids.get(id(value))
        return None if position is None else self.materialise(position, value)

    def needed(self, value: Any) -> Tensor:
        """The difference of the argument that a rule is about.

        Raises:
            UncoveredError: It carries none: another argument does, for which the rule has no formula.
        """
        difference = self.difference(value)
        if difference is None:
            raise UncoveredError
        return difference

    def entry_of(self, value: Any) -> Entry | None:
        """The entry of an argument, or one made of its memory's difference; None if it has neither.

        For a rule that does not need the difference yet.
        """
        self._asked.add(id(value))
        entry = self.entries.get(id(value))
        if entry is None and self.memories:
            memory = self.memories.find(value)
            return None if memory is None else Entry(memory.of(value))
        return entry

    def ignore(self, *values: Any) -> None:
        """Says that a rule's result does not depend on the elements of these arguments."""
        self._asked.update(map(id, values))

    def resolve(self, entry: Entry) -> Tensor:
        """The entry's difference, computed now if it was pending."""
        if entry.lazy is not None:
            difference = entry.lazy.resolve(self)
            entry.difference, entry.exclusive, entry.lazy = difference, entry.lazy.owned, None
        assert entry.difference is not None
        return entry.difference

    def resolve_all(self) -> None:
        """Computes whatever is pending, before memory that it reads is overwritten."""
        for entry in list(self.entries.values()):
            if entry.reads:
                self.resolve(entry)

    def trained(self, value: Any) -> int:
        """Tensor id of a trained parameter or of an alias of one; -1 for anything else."""
        key = id(value)
        self._asked.add(key)
        position = self.ids.get(key)
        if position is None:
            entry = self.entries.get(key)
            if entry is None or not isinstance(entry.lazy, Symbol) or not entry.lazy.plain:
                return -1
            position = entry.lazy.tensor_id
        self.used = True
        return position

    def materialise(self, tensor_id: int, parameter: Tensor, rows: Tensor | None = None) -> Tensor:
        """sε·z of one trained parameter, or of the rows that an int64 [R] lists: [P, *shape] float32."""
        self.used = True
        self.perturb_itself(tensor_id)
        whole, num = parameter.shape, self.directions.num
        shape = whole if rows is None else torch.Size((rows.numel(), *whole[1:]))
        self.reserve(shape.numel())
        z = empty((num, *shape), torch.float32, parameter.device)
        call("sample", z.device, z, self.directions, tensor_id, self.compute_dtype, rows)
        if self.sides == 1:
            return z.mul_(self.signed_eps.view(num, *[1] * len(shape)))
        steps = self.signed_eps.view(num, self.sides, *[1] * len(shape))
        return (z.unsqueeze(1) * steps).view(self.evaluations, *shape)

    def perturb_itself(self, tensor_id: int) -> None:
        """Says that something else than a layer reads a trained parameter, so that its output's noise won't do."""
        if self.nodes is not None and self.nodes.is_node(tensor_id):
            self.nodes.perturb_itself(tensor_id)

    def reserve(self, elements: int) -> None:
        """Starts again with fewer directions if a difference of so many elements is over the budget."""
        if elements > self._most and not self.plan.fixed and self.directions.num > 1:
            each = elements * self.sides * self.compute_dtype.itemsize
            fewer = max(1, min(self.budget // each, self.directions.num - 1))
            raise RestartError(replace(self.plan, chunk=fewer))

    def restart(self, keep: int) -> NoReturn:
        """Starts again; pending layer number ``keep`` leaves its input's memory alone and is computed whole."""
        raise RestartError(replace(self.plan, keep=self.plan.keep | {keep}))

    def put(self, base: Tensor, entry: Entry) -> None:
        """Enters a base tensor's difference, in place of the one it had."""
        key = id(base)
        if base.is_complex():
            self.complex = True
        previous = self.entries.get(key)
        if previous is not None:
            previous.forget()
        entry.readers += 1
        entry.reference = ref(base, partial(self._dropped, key))
        self.entries[key] = entry
        if self.written.lends and entry.reads and self.written.has_lent(entry.bases()):
            self.resolve(entry)

    def remove(self, base: Tensor) -> None:
        """The tensor lives on, but is overwritten: it no longer carries its difference."""
        self.give_up_tape()
        self.drop(id(base))

    def drop(self, key: int) -> None:
        """Ends the entry of the base tensor with this id."""
        entry = self.entries.pop(key, None)
        if entry is not None:
            entry.forget()
            if self.tape is not None:
                self.tape.died(key)

    def give_up_tape(self) -> None:
        """The rest of this run, whose differences change in place, can't be replayed."""
        if isinstance(self.tape, Recorder):
            self.tape.give_up("memory that carries a difference was written to")

    def apply(self, compute: Callable, base: Any, function: Callable, args: tuple, kwargs: dict) -> Any:
        """Runs a rule on a base result and enters what it returns; returns the base result.

        Where the rule passes over an argument that carries a difference, or says ``NotImplemented``, the generic
        subtraction takes the call.
        """
        if base is NotImplemented:  # an operator leaves the call to its other operand's class
            return base
        self._fetched.clear()
        self._asked.clear()
        self.wide = False
        try:
            result = compute(self, base, *args, **kwargs)
        except UncoveredError:
            result = NotImplemented
        passed_over = self._passed_over(args) or self._passed_over(kwargs.values())
        if result is NotImplemented or passed_over:
            result = fallback.difference(self, base, function, args, kwargs)
        elif self.plan.mends and result is not None:
            result = infinities.mended(self, function, base, result, (*args, *kwargs.values()))
        if result is None:
            return base
        if isinstance(base, Tensor):
            self.record(base, result)
        else:
            for each, its_difference in zip(base, result, strict=True):
                if its_difference is not None:
                    self.record(each, its_difference)
        self._fetched.clear()
        if self.nodes is not None:
            self.nodes.reduced.follow(self, base, function, args, kwargs)
        return base

    def _passed_over(self, args: Any) -> bool:
        """Whether an argument carries a difference that nobody has asked for."""
        entries, ids, memories, asked = self.entries, self.ids, self.memories, self._asked
        for value in args:
            key = id(value)
            if key not in asked and (
                key in entries or key in ids or (memories and memories.find(value) is not None)
            ):
                return True
            if type(value) in (list, tuple) and self._passed_over(value):
                return True
        return False

    def record(self, base: Tensor, difference: Tensor) -> None:
        """Enters the difference that a rule made of those it fetched, in the dtype of its level."""
        key = id(base)
        memories = self.memories
        if memories and memories.find(base) is not None:
            return
        dtype = self.level
        if base.is_complex():
            dtype = torch.complex64
        elif key in self.ids or not base.is_floating_point():
            return
        elif difference.is_complex():  # a cast to a real type takes the real part
            difference = difference.real
        if difference.dtype != dtype:
            difference = difference.to(dtype)
        if difference.shape[1:] != base.shape:
            raise RuntimeError(
                f"a rule of zo_triton made a difference of shape {tuple(difference.shape[1:])} for a result of "
                f"shape {tuple(base.shape)}; please report it, and wrap the closure in zo.BlackBox meanwhile."
            )
        self.reserve(base.numel())
        memory, exclusive = storage_of(difference), not (memories and memories.lend(difference))
        for entry in self._fetched:
            if entry.difference is None or storage_of(entry.difference) == memory:
                entry.exclusive = exclusive = False
        present = self.entries.get(key)
        if present is not None and not exclusive and present in self._fetched:
            return
        self.put(base, Entry(difference, None, exclusive))

    def align(self, difference: Tensor, dimensions: int) -> Tensor:
        """Inserts ones after the P axis until the rest has this many dimensions, as broadcasting would."""
        missing = dimensions - difference.dim() + 1
        if missing <= 0:
            return difference
        return difference.reshape(difference.shape[0], *[1] * missing, *difference.shape[1:])

    def remember(self, target: Any) -> None:
        """Keeps what a tensor holds that the closure is about to write."""
        self.written.remember(target)

    def lend(self, tensor: Tensor) -> None:
        """Something else than torch gets hold of the tensor's memory: what reads it doesn't wait any longer."""
        self.written.lend(tensor)
        for entry in list(self.entries.values()):
            if entry.reads and self.written.has_lent(entry.bases()):
                self.resolve(entry)

    def close(self) -> None:
        """Drops every entry: table and callbacks refer to each other, and the callbacks to the mode."""
        self.entries.clear()
        self._dropped = lambda key, reference: None
        self.tape = None
        self.memories.clear()
