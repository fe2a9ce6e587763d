"""What tensors held that the closure writes to: running statistics, counters, buffers."""

from __future__ import annotations

from typing import Any

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

    def remember(self, target: Any) -> None:
        """Keeps what a tensor's memory holds that is about to be written; anything else is no business of it."""
        if not isinstance(target, Tensor):
            return
        address = address_of(target)
        if (
            address and address not in self._before
        ):  # a weak reference keeps the address from being used again
            storage = target.untyped_storage()
            self._before[address] = StorageWeakRef(storage), _bytes_of(storage).clone()

    def holds(self, tensor: Tensor) -> bool:
        """Whether a tensor looks at memory that :meth:`undo` will write to."""
        return address_of(tensor) in self._before

    def undo(self) -> None:
        """Puts back what they held, so that the closure can run again."""
        for reference, before in self._before.values():
            if not reference.expired():
                _bytes_of(UntypedStorage._new_with_weak_ptr(reference.cdata)).copy_(before)


def _bytes_of(storage: UntypedStorage) -> Tensor:
    return torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)
