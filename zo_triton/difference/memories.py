"""Differences of whole memories, for tensors that are written to while others look at the same memory.

An entry belongs to one tensor. Once ``out[:, 1:] = h`` or ``view.add_(h)`` is called, that is too little: every
tensor that looks at this memory, entered or not, now depends on h. From then on the memory itself has the
difference, one number for each of its elements, and a tensor reads it by its own sizes, strides and offset. So a
difference follows its base through any view there is.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn import Parameter


class Memory:
    """The difference of everything that lies in one storage.

    Args:
        tensor: Any tensor that looks at it.
        evaluations: P.
        dtype: Of the difference, float32 or bfloat16; that of complex memory is complex64.

    Attributes:
        difference: [P, elements of the storage], contiguous.
        exclusive: No entry's difference lies in the memory of ``difference``, so that it may be written to.
    """

    def __init__(self, tensor: Tensor, evaluations: int, dtype: torch.dtype) -> None:
        storage = tensor.untyped_storage()
        self.reference = StorageWeakRef(storage)
        self.base_dtype = tensor.dtype
        elements = storage.nbytes() // tensor.element_size()
        dtype = torch.complex64 if tensor.is_complex() else dtype
        self.difference = torch.zeros((), dtype=dtype, device=tensor.device).expand(evaluations, elements)
        self.exclusive = False

    def of(self, tensor: Tensor) -> Tensor:
        """The tensor's own difference, [P, *shape]: a view unless the tensor is one of conjugates or negatives.

        Raises:
            ValueError: The tensor reads the memory as another dtype, and not as complex numbers or their parts.
        """
        found = self._place(tensor)
        found = found.conj().resolve_conj() if tensor.is_conj() else found
        return -found if tensor.is_neg() else found

    def _place(self, tensor: Tensor) -> Tensor:
        """What lies where the tensor's elements do, [P, *shape]."""
        difference = self._as(tensor.dtype)
        every, each = difference.stride()
        strides = [each * stride for stride in tensor.stride()]
        shape = (difference.shape[0], *tensor.shape)
        start = difference.storage_offset() + each * tensor.storage_offset()
        return difference.as_strided(shape, (every, *strides), start)

    def _as(self, dtype: torch.dtype) -> Tensor:
        """The difference [P, elements] as a view of this dtype has them."""
        if dtype == self.base_dtype:
            return self.difference
        if self.base_dtype.is_complex and dtype == self.base_dtype.to_real():
            return torch.view_as_real(self.difference).flatten(1)
        if dtype.is_complex and self.base_dtype == dtype.to_real():
            if self.difference.dtype != torch.float32 or not self.exclusive:
                self.difference, self.exclusive = self.difference.float().contiguous().clone(), True
            return torch.view_as_complex(self.difference.unflatten(1, (-1, 2)))
        raise ValueError(
            f"a tensor of {dtype} looks at memory of {self.base_dtype} that was written in place and "
            "depends on the trained parameters, where differences can't follow; convert it by .to(dtype) "
            "instead of viewing it as another dtype."
        )

    def write(self, tensor: Tensor, difference: Tensor | None, exclusive: bool = False) -> None:
        """Gives the tensor another difference.

        Args:
            tensor: Looks at the memory.
            difference: [P, *shape]; None for zeros.
            exclusive: The difference is nobody else's: where it fills the whole memory, it is taken as it is.
        """
        if difference is not None:
            if tensor.is_conj():
                difference = difference.conj().resolve_conj()
            difference = -difference if tensor.is_neg() else difference
            fills = tensor.numel() == self.difference.shape[1] and tensor.is_contiguous()
            if exclusive and fills and tensor.dtype == self.base_dtype:
                self.difference, self.exclusive = difference.reshape(len(difference), -1).contiguous(), True
                return
            if same_storage(difference, self.difference):
                difference = difference.clone()
            part = difference.dtype.to_real() if difference.is_complex() else difference.dtype
            dtype = torch.promote_types(self.difference.dtype, part)
            if dtype != self.difference.dtype:
                self.difference, self.exclusive = self.difference.to(dtype).contiguous(), True
        if not self.exclusive:
            self.difference, self.exclusive = (
                self.difference.clone(memory_format=torch.contiguous_format),
                True,
            )
        target = self._place(tensor)
        for axis, stride in enumerate(tensor.stride(), 1):  # an expanded tensor repeats the same elements
            if stride == 0:
                target = target.narrow(axis, 0, min(1, target.shape[axis]))
                difference = None if difference is None else difference.narrow(axis, 0, target.shape[axis])
        if difference is None:
            target.zero_()
        else:
            target.copy_(difference)


class Memories(dict[int, Memory]):
    """The memories that have a difference, by the addresses of their storages.

    A weak reference keeps the storage's address from being used again, so no other memory is taken for it.
    """

    def find(self, value: Any) -> Memory | None:
        """The memory that a tensor looks at; None if it has no difference, or the value is no tensor."""
        return self.get(address_of(value)) if self and isinstance(value, Tensor) else None

    def add(self, memory: Memory) -> None:
        """Enters a memory, and forgets those that nobody looks at any more."""
        for key in [key for key, each in self.items() if each.reference.expired()]:
            del self[key]
        self[memory.reference.cdata] = memory

    def lend(self, difference: Tensor) -> bool:
        """Whether a new entry's difference lies in a memory's own, which then may not be written to."""
        lenders = [each for each in self.values() if same_storage(difference, each.difference)]
        for memory in lenders:
            memory.exclusive = False
        return bool(lenders)


_MOST_OWN = 256
"""Memories remembered as torch's own before those that are gone are forgotten."""

_own: dict[int, StorageWeakRef] = {}


def is_outside(tensor: Tensor) -> bool:
    """Whether something else than torch owns the memory, as NumPy does that of ``torch.from_numpy(array)``.

    It may be written to at any time, of which nobody will hear. Parameters, as they are read from a file's pages,
    count as safe: a copy of all frozen weights would cost too much.
    """
    whole = tensor._base if tensor._is_view() else tensor
    if isinstance(whole, Parameter):
        return False
    try:
        storage = tensor.untyped_storage()
        can_grow = storage.resizable()
    except (NotImplementedError, RuntimeError):
        return False
    known = _own.get(storage._cdata)
    if can_grow and known is None:  # not any more once an engine has looked at it through NumPy
        if len(_own) >= _MOST_OWN:
            for key in [key for key, each in _own.items() if each.expired()]:
                del _own[key]
        _own[storage._cdata] = StorageWeakRef(storage)
    return not can_grow and (known is None or known.expired())


def kept(tensor: Tensor) -> Tensor:
    """A tensor's elements as they are now, to be read later: an alias if torch owns the memory, else a copy."""
    return tensor.detach().clone() if is_outside(tensor) else tensor.detach()


def same_storage(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors look at the same memory."""
    return address_of(one) == address_of(other) != 0


def address_of(tensor: Tensor) -> int:
    """Identifies the tensor's storage while that lives; 0 for a tensor without one (sparse, or a wrapper)."""
    try:
        return tensor.untyped_storage()._cdata
    except (NotImplementedError, RuntimeError):
        return 0
