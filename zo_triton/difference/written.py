"""What tensors held that the closure writes to: running statistics, counters, buffers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from weakref import ref

import torch
from torch import Tensor, UntypedStorage
from torch.multiprocessing.reductions import StorageWeakRef

from zo_triton.difference.memories import address_of


class Written:
    """Keeps the old contents of each memory from before the first write to it.

    Memories, not tensors: ``buffer.data.add_(1)`` writes to one through a tensor that is gone at once.
    """

    def __init__(self) -> None:
        self._before: dict[int, tuple[StorageWeakRef, Tensor]] = {}
        self._looks: dict[int, tuple[ref[Tensor], Tensor]] = {}
        self._generators: dict[torch.Generator, Tensor] = {}
        self._lent: set[int] = set()

    def remember(self, target: Any) -> None:
        """Keeps what a tensor's memory holds that is about to be written; anything else is no business of it."""
        if not isinstance(target, Tensor):
            return
        address = address_of(target)
        # A weak reference keeps the address from being used again.
        if address and address not in self._before:
            storage = target.untyped_storage()
            self._before[address] = StorageWeakRef(storage), _bytes_of(storage).clone()

    def remember_look(self, target: Any) -> None:
        """Keeps which memory a tensor looks at, and how, before that may change.

        As by ``buffer.data = new``, by ``x.t_()``, and by ``out=`` of an empty one.
        """
        if isinstance(target, Tensor):
            reference, _ = self._looks.get(id(target), (None, None))
            if reference is None or reference() is not target:  # another tensor may have had this id before
                self._looks[id(target)] = ref(target), target.detach()

    def remember_generator(self, generator: torch.Generator) -> None:
        """Keeps the state of a generator of the user's own, which numbers are about to be drawn from."""
        if generator not in self._generators:
            self._generators[generator] = generator.get_state()

    def lend(self, tensor: Tensor) -> None:
        """Something else than torch may write to a tensor's memory from now on, of which nobody will hear."""
        self.remember(tensor)
        self._lent.update({address_of(tensor)} - {0})

    @property
    def lends(self) -> bool:
        """Whether anything was lent."""
        return bool(self._lent)

    def has_lent(self, tensors: Iterable[Tensor]) -> bool:
        """Whether one of the tensors looks at memory that may change without a word."""
        return self.lends and any(address_of(tensor) in self._lent for tensor in tensors)

    def changed_unseen(self) -> bool:
        """Whether memory that was lent isn't what it was."""
        found = (self._before[address] for address in self._lent if address in self._before)
        return any(
            not reference.expired() and not torch.equal(_bytes_at(reference), before)
            for reference, before in found
        )

    def holds(self, tensor: Tensor) -> bool:
        """Whether a tensor looks at memory that :meth:`undo` will write to."""
        return address_of(tensor) in self._before

    def undo(self) -> None:
        """Puts back what they held, so that the closure can run again."""
        for generator, state in self._generators.items():
            generator.set_state(state)
        for tensor, look in self._looks.values():
            target = tensor()
            if target is not None and not target.is_set_to(look):
                target.data = look
        for reference, before in self._before.values():
            if not reference.expired():
                storage = UntypedStorage._new_with_weak_ptr(reference.cdata)
                if storage.nbytes() < before.numel():
                    storage.resize_(before.numel())
                _bytes_of(storage)[: before.numel()].copy_(before)  # it may have grown


def _bytes_at(reference: StorageWeakRef) -> Tensor:
    return _bytes_of(UntypedStorage._new_with_weak_ptr(reference.cdata))


def _bytes_of(storage: UntypedStorage) -> Tensor:
    return torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)
