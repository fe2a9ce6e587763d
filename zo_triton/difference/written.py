"""What tensors held that the closure writes to: running statistics, counters, buffers."""

from __future__ import annotations

from typing import Any
from weakref import ref

from torch import Tensor


class Written:
    """Keeps the old contents of each tensor from before the first write to it."""

    def __init__(self) -> None:
        self._before: dict[int, tuple[ref[Tensor], Tensor]] = {}

    def remember(self, target: Any) -> None:
        """Keeps what a tensor holds that is about to be written; anything else is no business of it."""
        if not isinstance(target, Tensor):
            return
        whole = target._base if target._is_view() else target
        known = self._before.get(id(whole))
        if whole is not None and (known is None or known[0]() is not whole):
            self._before[id(whole)] = (ref(whole), whole.detach().clone())

    def undo(self) -> None:
        """Puts back what they held, so that the closure can run again."""
        for reference, before in self._before.values():
            whole = reference()
            if whole is not None:
                whole.copy_(before)
