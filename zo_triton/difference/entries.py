"""What the mode remembers of a tensor: its difference, or how to get it when somebody asks.

An entry dies with its base tensor. Who may still read a difference is counted (``Entry.readers``), because
the last reader may overwrite it; and ``Entry.exclusive`` says that no other entry looks at the same memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Protocol
from weakref import ref

from torch import Tensor

if TYPE_CHECKING:
    from zo_triton.difference.mode import DifferenceMode


class Pending(Protocol):
    """A difference that is not computed yet."""

    @property
    def reads(self) -> bool:
        """Whether computing it would read base results that may be overwritten meanwhile."""
        ...

    @property
    def owned(self) -> bool:
        """Whether the difference that it makes lies in memory of its own."""
        ...

    def bases(self) -> Iterable[Tensor]:
        """The base results that computing it would read."""
        ...

    def resolve(self, mode: DifferenceMode) -> Tensor:
        """The difference, [P, *shape]; lets go of what it was made of."""
        ...

    def release(self) -> None:
        """It will never be asked for: lets go of what it would be made of."""
        ...


class Entry:
    """The difference of one base tensor.

    Attributes:
        difference: [P, *shape] in the compute dtype (float32 after a loss), or None while ``lazy`` is set.
        lazy: What computes the difference on demand, or None.
        exclusive: No other entry's difference lies in the same memory.
        readers: How many places may read ``difference`` again: the table and each pending entry.
        reference: Weak reference to the base tensor; its callback removes the entry from the table.
    """

    __slots__ = ("difference", "exclusive", "lazy", "readers", "reference")

    def __init__(
        self,
        difference: Tensor | None,
        lazy: Pending | None = None,
        exclusive: bool = False,
    ) -> None:
        self.difference = difference
        self.lazy = lazy
        self.exclusive = exclusive
        self.readers = 0
        self.reference: ref[Tensor] | None = None

    @property
    def reads(self) -> bool:
        """Whether computing it would read base results that may be overwritten meanwhile."""
        return self.lazy is not None and self.lazy.reads

    def bases(self) -> Iterable[Tensor]:
        """The base results that computing it would read."""
        return () if self.lazy is None else self.lazy.bases()

    def forget(self) -> None:
        """The table no longer reads this entry: its base tensor died or was overwritten."""
        self.reference = None
        self.let_go()

    def let_go(self) -> None:
        """One reader fewer; without any, what is pending will never be computed."""
        self.readers -= 1
        if self.readers == 0 and self.lazy is not None:
            self.lazy.release()


class Symbol:
    """A trained parameter under another name: its alias or copy (``.data``, ``.clone()``), its transpose.

    Args:
        parameter: The parameter.
        tensor_id: Its tensor id.
        transposed: It is a matrix, and this its transpose.
        batch: Sizes of leading axes along which it is repeated.
    """

    reads = owned = False
    __slots__ = ("batch", "parameter", "tensor_id", "transposed")

    def __init__(
        self, parameter: Tensor, tensor_id: int, transposed: bool = False, batch: Sequence[int] = ()
    ) -> None:
        self.parameter = parameter
        self.tensor_id = tensor_id
        self.transposed = transposed
        self.batch = tuple(batch)

    @property
    def plain(self) -> bool:
        """Whether it has the parameter's own elements in the parameter's own shape."""
        return not self.transposed and not self.batch

    def bases(self) -> Iterable[Tensor]:
        """None: it is drawn."""
        return ()

    def resolve(self, mode: DifferenceMode) -> Tensor:
        """sε·z of the parameter, [P, *shape]."""
        difference = mode.materialise(self.tensor_id, self.parameter)
        difference = difference.mT if self.transposed else difference
        if self.batch:
            shape = difference.shape
            difference = difference.reshape(shape[0], *[1] * len(self.batch), *shape[1:])
            difference = difference.expand(-1, *self.batch, *shape[1:])
        return difference

    def release(self) -> None:
        """Nothing is held."""


class Viewed:
    """A tensor that another one, whose difference is pending, shares its elements with.

    Args:
        source: The other one's entry.
        view: Makes this tensor's difference of the source's, in the same memory.
    """

    owned = False
    __slots__ = ("source", "view")

    def __init__(self, source: Entry, view: Callable[[Tensor], Tensor]) -> None:
        self.source: Entry | None = source
        self.view = view
        source.readers += 1

    @property
    def reads(self) -> bool:
        """As the source does."""
        return self.source is not None and self.source.reads

    def bases(self) -> Iterable[Tensor]:
        """As the source does."""
        return () if self.source is None else self.source.bases()

    def resolve(self, mode: DifferenceMode) -> Tensor:
        """The difference, in the memory of the source's."""
        source = self.source
        assert source is not None
        difference = self.view(mode.resolve(source))
        source.exclusive = False
        self.release()
        return difference

    def release(self) -> None:
        """Lets go of the source."""
        source, self.source = self.source, None
        if source is not None:
            source.let_go()


def storage_of(tensor: Tensor) -> int:
    """Address of the tensor's memory, 0 where it has none (sparse, or inside a torch.func transform)."""
    try:
        return tensor.untyped_storage().data_ptr()
    except NotImplementedError:
        return 0
