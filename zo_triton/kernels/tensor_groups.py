"""Small tensors that share a launch: which ones go together, and the table in which a program finds its own.

A network has many tensors too small to keep a chip busy, and each launch takes the host longer than the chip needs
for such a tensor. The table knows shapes and names and no address, so that it is written once for a network: a step
that is recorded into a graph finds it on the device.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from itertools import accumulate
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from zo_triton.directions import Directions, matrix_shape
from zo_triton.kernels.field import word_arguments
from zo_triton.kernels.launch import blocks

MOST_TENSORS = 64
"""In a group, whose programs look through all of them for their own."""

_ENTRIES = tl.constexpr(MOST_TENSORS)
_AFTER_ALL = 2**62
"""The first tile of an entry that stands for no tensor."""


class Entry(NamedTuple):
    """What a program must know of a tensor; each field is a row of the table, int64.

    Attributes:
        first: Its first tile.
        rows: Of its matrix.
        cols: Of its matrix.
        place: Of its first element among those of the group.
        whole_word: Its counter word.
        left_word: That of its left factor.
        right_word: That of its right factor.
    """

    first: int
    rows: int
    cols: int
    place: int
    whole_word: int
    left_word: int
    right_word: int


class Group(NamedTuple):
    """Tensors of one dtype and device, none of them empty, whose elements are numbered through.

    Attributes:
        tensors: Of any shapes and strides.
        ids: Theirs in the field.
    """

    tensors: list[Tensor]
    ids: list[int]

    @property
    def dtype(self) -> torch.dtype:
        """Of all tensors."""
        return self.tensors[0].dtype

    @property
    def device(self) -> torch.device:
        """Of all tensors."""
        return self.tensors[0].device

    @property
    def elements(self) -> int:
        """Of all tensors together."""
        return sum(tensor.numel() for tensor in self.tensors)

    def takes(self, tensor: Tensor) -> bool:
        """Whether one more may join; one that is in it already may not: what it gets would be added at once."""
        return len(self.tensors) < MOST_TENSORS and all(tensor is not other for other in self.tensors)

    def alike(self, directions: Directions) -> list[list[int]]:
        """Positions of those for which a kernel is the same code: of low rank or full, matrices or vectors."""
        kinds: dict[tuple[bool, bool], list[int]] = {}
        for position, tensor in enumerate(self.tensors):
            kind = directions.is_low_rank(tensor.shape), matrix_shape(tensor.shape)[0] == 1
            kinds.setdefault(kind, []).append(position)
        return list(kinds.values())

    def entries(
        self, positions: Sequence[int], directions: Directions, rows: int, cols: int
    ) -> tuple[tuple[Entry, ...], int]:
        """The table's content for the tensors at these positions, and how many tiles [rows, cols] they have."""
        places = list(accumulate((tensor.numel() for tensor in self.tensors), initial=0))
        found, tiles = [], 0
        for position in positions:
            height, width = matrix_shape(self.tensors[position].shape)
            words = word_arguments(directions, self.ids[position])
            found.append(Entry(tiles, height, width, places[position], **words))
            tiles += blocks(height, rows) * blocks(width, cols)
        return tuple(found), tiles

    def split(self, elements: Tensor) -> list[Tensor]:
        """The group's elements, [elements], as views in the tensors' shapes."""
        parts = elements.split([tensor.numel() for tensor in self.tensors])
        return [part.view(tensor.shape) for part, tensor in zip(parts, self.tensors, strict=True)]


def groups(tensors: Sequence[Tensor], ids: Sequence[int], most_elements: int) -> Iterator[Group]:
    """All tensors that have elements, in groups.

    Args:
        tensors: Of one device.
        ids: Theirs in the field.
        most_elements: Of a group; a tensor of more than half of it is one by itself.
    """
    unfinished: dict[torch.dtype, Group] = {}
    room: dict[torch.dtype, int] = {}
    for tensor, tensor_id in zip(tensors, ids, strict=True):
        dtype, size = tensor.dtype, tensor.numel()
        if 2 * size > most_elements:
            yield Group([tensor], [tensor_id])
        elif size:
            group = unfinished.setdefault(dtype, Group([], []))
            if size > room.setdefault(dtype, most_elements) or not group.takes(tensor):
                yield group
                group = unfinished[dtype] = Group([], [])
                room[dtype] = most_elements
            group.tensors.append(tensor)
            group.ids.append(tensor_id)
            room[dtype] -= size
    yield from unfinished.values()


@cache
def table(content: tuple[Entry, ...], device: torch.device) -> Tensor:
    """The table on a device, int64 [7, MOST_TENSORS]; never freed, since a recorded graph may read it."""
    missing = MOST_TENSORS - len(content)
    padded = [*content, *[Entry(_AFTER_ALL, 0, 0, 0, 0, 0, 0)] * missing]
    return torch.tensor(padded, dtype=torch.int64, device="cpu").T.contiguous().to(device)


@triton.jit
def entry_of(table_ptr, tile):
    """The position in the table of the tensor that a tile belongs to."""
    firsts = tl.load(table_ptr + tl.arange(0, _ENTRIES))
    return tl.sum((firsts <= tile).to(tl.int32)) - 1


@triton.jit
def number_of(table_ptr, entry, FIELD: tl.constexpr):
    """A field of an entry that is a size, int32: no group has as many as 2³¹ elements."""
    return tl.load(table_ptr + FIELD * _ENTRIES + entry).to(tl.int32)


@triton.jit
def words_of(table_ptr, entry, WIDE: tl.constexpr):
    """The counter words of an entry, as :func:`zo_triton.kernels.field.as_word` takes them."""
    word_ptr = table_ptr + 4 * _ENTRIES + entry
    whole, left, right = tl.load(word_ptr), tl.load(word_ptr + _ENTRIES), tl.load(word_ptr + 2 * _ENTRIES)
    if WIDE:
        return whole, left.to(tl.int32), right.to(tl.int32)
    else:
        return whole.to(tl.int32), left.to(tl.int32), right.to(tl.int32)
