"""Attention's differences in one compiled call: how the work falls into pieces, and what is the same in each.

A piece is one matrix of the base with some of its queries: scores and shares are made once, and then, evaluation
after evaluation, the scores' differences, the shares' and the result's. What a causal mask hides is not computed,
and nothing but the result leaves the cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numba import uintp
from torch import Tensor

from zo_triton.cpu.addresses import fetch_line
from zo_triton.cpu.compiling import device, routine
from zo_triton.cpu.sharing import SharedKernel
from zo_triton.cpu.threads import together

QUERIES = 128
"""Of a matrix at a time: their scores and differences for 512 keys take 768 KiB."""

FEW_ITEMS = 16
"""With fewer pieces the evaluations are shared out as well."""

QUERY, KEY, VALUE, RESULT = range(4)

MASK = 3
"""Its place in the base, if there is one."""


def attention_in_pieces(
    kernel: SharedKernel,
    out: Tensor,
    still: Sequence[Tensor],
    moving: Sequence[Tensor | None],
    scale: float,
    is_causal: bool,
    *how: Any,
) -> None:
    """Writes the result's difference.

    Args:
        kernel: What makes pieces. It is called with addresses of query, key, value and mask, int64 [3 or 4,
            matrices]; those of differences, 0 where there are none, and of the result, [4, P, matrices]; how far
            rows are apart in each, [7 or 8]; queries, keys, columns of query and value, pieces of a matrix and
            groups of evaluations, [6]; then ``scale``, ``is_causal``, ``how``, and its first item and the one
            after its last.
        out: [P, *batch, L, Ev].
        still: Query, key, value and, if the kernel knows of it, mask, [1, *batch, rows, columns] float32.
        moving: Differences of the first three, [P, *batch, rows, columns] like ``out``, or None.
        scale: Factor on QKᵀ.
        is_causal: Hides from query i the keys after i.
        how: Further arguments of the kernel.
    """
    evaluations, (queries, columns) = out.shape[0], out.shape[-2:]
    keys, inner = still[KEY].shape[-2:]
    target = _in_rows(out)
    lying = [None if each is None else _in_rows(each) for each in (*still, *moving, target)]
    bases, changes = lying[: len(still)], lying[len(still) :]
    matrices = out[0].numel() // (queries * columns)
    base_places = np.stack([_places(each)[0] for each in bases if each is not None])
    places = np.zeros((RESULT + 1, evaluations, matrices), np.int64)
    for each, row in zip(changes, places, strict=True):
        if each is not None:
            row[:] = _places(each)
    pitches = np.array(
        [0 if each is None else max(each.stride(-2), each.shape[-1]) for each in lying], np.int64
    )
    pieces = -(-queries // QUERIES)
    groups = min(evaluations, -(-FEW_ITEMS // (matrices * pieces)))
    sizes = np.array([queries, keys, inner, columns, pieces, groups], np.int64)
    arguments = base_places, places, pitches, sizes, scale, is_causal, *how
    together(kernel, arguments, matrices * pieces * groups)
    if target is not out:
        out.copy_(target)


def _in_rows(tensor: Tensor) -> Tensor:
    """The tensor, or a copy, whose matrices' rows lie in one piece each, and on no other."""
    tensor = tensor.resolve_neg()  # an address knows nothing of a sign that is still to be turned
    rows, columns = tensor.shape[-2:]
    between, within = tensor.stride()[-2:]
    apart = (within == 1 or columns == 1) and (between >= columns or rows == 1)
    return tensor if apart else tensor.contiguous()


def _places(tensor: Tensor) -> np.ndarray:
    """Addresses of the matrices of [P, *batch, rows, columns], int64 [P, all of the batch]."""
    offsets = np.zeros((), np.int64)
    for size, stride in zip(tensor.shape[:-2], tensor.stride(), strict=False):
        offsets = offsets[..., None] + stride * np.arange(size)
    return tensor.data_ptr() + tensor.itemsize * offsets.reshape(tensor.shape[0], -1)


@device
def piece_of(item, sizes, evaluations, is_causal):
    """An item's matrix; its first query and how many; its first evaluation and the one after its last.

    Then how many keys any of the queries sees, and how many the first sees before its own, −1 if all see all.
    """
    queries, keys, _, _, pieces, groups = sizes
    group, piece, matrix = item % groups, item // groups % pieces, item // groups // pieces
    first, end = queries * piece // pieces, queries * (piece + 1) // pieces
    seen, hidden = (min(keys, end), first) if is_causal else (keys, -1)
    begin, stop = group * evaluations // groups, (group + 1) * evaluations // groups
    return matrix, first, end - first, begin, stop, seen, hidden


@routine
def fetch(address, first, rows, pitch, columns, size):
    """Has rows of the next evaluation's matrix come to the cache: short and far apart, they are not foreseen.

    Nothing if there is no matrix, at address 0. size: bytes of a value.
    """
    at = uintp(address + size * first * pitch)
    for _ in range(rows if address else 0):
        for line in range((size * columns + 63) // 64):
            fetch_line(at + uintp(64 * line))
        at += uintp(size * pitch)
