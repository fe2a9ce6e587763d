"""Differences of scaled dot-product attention: no score is there for all evaluations at once.

With p = softmax(S), S = QKᵀ·scale + mask: ΔS = (ΔQ·Kᵀ + (Q+ΔQ)·ΔKᵀ)·scale + Δmask, Δp by
:mod:`zo_triton.cpu.softmax`, and the result moves by Δp·(V+ΔV) + p·ΔV. What no kernel does in one call is done by
torch's products, block by block: a block holds the scores of some queries in some matrices, and stays in the cache
from the first product to the last.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from zo_triton._memory import empty
from zo_triton._precision import factor, rounds_factors
from zo_triton.cpu.attention_rows import attention_in_rows
from zo_triton.cpu.attention_tiles import attention_in_tiles
from zo_triton.cpu.batched_product import sum_of_products
from zo_triton.cpu.softmax import move_rows
from zo_triton.cpu.squares import most_parts
from zo_triton.cpu.threads import parallel, together
from zo_triton.cpu.tiles import PARTS

BLOCK_SCORES = 1 << 17
"""Scores in a block: 512 KiB, beside which the base's shares fit into a cache of 1 or 2 MiB."""

SHORTEST = 64
"""Queries that a block has at least, if there are as many: products of few rows are slow."""

Place = tuple[int | slice, ...]
"""Some matrices of a tensor [P, *batch, rows, columns]: one axis is cut, the others are indexed."""

Block = tuple[Place, slice]
"""Some matrices, and some of their queries."""


def attention_difference(
    output: Tensor,
    values: Sequence[Tensor | None],
    changes: Sequence[Tensor | None],
    evaluations: int,
    scale: float,
    is_causal: bool,
    dtype: torch.dtype,
) -> Tensor:
    """Same contract as ``ops.attention_difference``; the result lies in memory as ``output`` does."""
    query, key = values[0], values[1]
    assert query is not None
    assert key is not None
    batch, groups = output.shape[:-2], output.shape[-3] // key.shape[-3]
    if groups > 1:
        batch = torch.Size((*batch[:-1], batch[-1] // groups, groups))
    shape = (evaluations, *batch, query.shape[-2], key.shape[-2])
    still = [
        None if each is None else _spread(each.detach().unsqueeze(0), shape, groups, i > 2)
        for i, each in enumerate(values)
    ]
    moving = [None if each is None else _spread(each, shape, groups, i > 2) for i, each in enumerate(changes)]
    order = sorted(range(output.dim()), key=output.stride, reverse=True)
    lying = empty((evaluations, *(output.shape[axis] for axis in order)), dtype)
    result = lying.permute(0, *(1 + order.index(axis) for axis in range(output.dim())))
    out = result if groups == 1 else result.unflatten(-3, batch[-2:])
    simple = still[4] is moving[3] is None
    if simple and _in_one_call(out, still[:4], moving[:3], scale, is_causal):
        return result
    strides = next(each for each in moving if each is not None).stride()
    blocks = list(_blocks(shape, strides, is_causal))

    def run(start: int, stop: int) -> None:
        share = _Share(still, moving, scale, is_causal)
        with torch.autocast("cpu", enabled=False):
            for place, queries in blocks[start:stop]:
                share.move(out, place, queries)

    parallel(run, len(blocks))
    return result


def _in_one_call(
    out: Tensor, still: list[Tensor | None], moving: list[Tensor | None], scale: float, is_causal: bool
) -> bool:
    """Writes the result's difference, if one call of compiled code can; whether it did.

    Float32 products were quicker than torch's of whole blocks in all that was measured on AMD's Zen 4, 8 to 1024
    queries and keys with heads of 16 to 256: they took 0.7 to 0.95 of the time, with a causal mask 0.5 to 0.6.
    """
    mask, parts = still[3], 1 if rounds_factors() else PARTS
    in_tiles = mask is None and parts <= most_parts() and _are(torch.float32, [out, *still, *moving])
    if not in_tiles and (rounds_factors() or not _are(out.dtype, moving)):
        return False
    base = [each.float() for each in still[:3] if each is not None]
    if mask is not None:
        added, hides_later = _as_added(mask)
        base.append(added)
        is_causal = is_causal or hides_later
    if in_tiles:
        attention_in_tiles(out, base, moving, scale, is_causal, parts)
    else:
        attention_in_rows(out, base, moving, scale, is_causal)
    return True


def _as_added(mask: Tensor) -> tuple[Tensor, bool]:
    """What a mask, [1, *batch, L, S], adds to scores, in float32; and whether query i sees no key after i."""
    once = mask[tuple(slice(None if stride else 1) for stride in mask.stride())]
    if once.dtype == torch.bool:
        once = torch.zeros(once.shape, dtype=torch.float32, device="cpu").masked_fill_(~once, -math.inf)
    once = once.float().expand(*once.shape[:-2], *mask.shape[-2:]).contiguous()
    later = torch.ones(mask.shape[-2:], dtype=torch.bool, device="cpu").triu_(1)
    return once.expand_as(mask), bool((once == -math.inf).logical_or_(~later).all())


def _are(dtype: torch.dtype, tensors: Sequence[Tensor | None]) -> bool:
    return all(each is None or each.dtype == dtype for each in tensors)


def _spread(tensor: Tensor, shape: Sequence[int], groups: int, of_scores: bool) -> Tensor:
    """[P or 1, *some, rows, columns] seen as [P or 1, *batch, rows, columns]."""
    if tensor.dim() < 3:
        tensor = tensor.unsqueeze(1)
    if groups > 1 and tensor.dim() > 3:  # heads that are as many as the query's fall into groups
        split = tensor.shape[-3] == groups * shape[-4]
        tensor = tensor.unflatten(-3, (-1, groups)) if split else tensor.unsqueeze(-3)
    missing = len(shape) - tensor.dim()
    tensor = tensor.reshape(tensor.shape[0], *[1] * missing, *tensor.shape[1:])
    return tensor.expand(-1, *shape[1:-2], *(shape[-2:] if of_scores else tensor.shape[-2:]))


def _blocks(shape: Sequence[int], strides: Sequence[int], is_causal: bool) -> Iterator[Block]:
    """All of them; those that have the base's shares in common follow one another.

    Args:
        shape: (P, *batch, L, S).
        strides: Of the first axes, P and batch, in the differences' memory.
        is_causal: Whether queries that see little are worth blocks of their own.
    """
    *axes, queries, keys = shape
    height = max(min(SHORTEST, queries), min(queries, BLOCK_SCORES // keys))
    if is_causal:
        height = min(height, max(2 * SHORTEST, -(-queries // 4)))
    width = max(1, BLOCK_SCORES // (height * keys))
    cut = _axis_to_cut(axes, strides, width)
    pieces = _pieces(axes[cut], -(-axes[cut] // width))
    apart = [range(1) if axis in (0, cut) else range(size) for axis, size in enumerate(axes)]
    outer: Iterable[int | slice] = pieces if cut else [0]
    inner: Iterable[int | slice] = range(axes[0]) if cut else pieces
    for rows in _pieces(queries, -(-queries // height)):
        for fixed in itertools.product(*apart):
            for first, last in itertools.product(outer, inner):
                place: list[int | slice] = list(fixed)
                place[cut] = first
                place[0] = last
                yield tuple(place), rows


def _axis_to_cut(axes: Sequence[int], strides: Sequence[int], width: int) -> int:
    """The axis whose matrices lie closest together, unless a block of another holds many more of them."""
    longest = axes.index(max(axes))
    several = [axis for axis, size in enumerate(axes) if size > 1]
    closest = min(several, key=lambda axis: strides[axis], default=longest)
    return closest if 4 * axes[closest] >= min(axes[longest], width) else longest


def _pieces(size: int, count: int) -> list[slice]:
    return [slice(size * i // count, size * (i + 1) // count) for i in range(count)]


class _Share:
    """What one thread needs: the base's part of the block before, and memory for the next."""

    def __init__(
        self, still: list[Tensor | None], moving: list[Tensor | None], scale: float, is_causal: bool
    ) -> None:
        self._still, self._moving = still, moving
        self._scale, self._is_causal = scale, is_causal
        self._at: tuple[Any, ...] = ()
        self._change = torch.empty(0, dtype=torch.float32, device="cpu")

    def move(self, out: Tensor, place: Place, rows: slice) -> None:
        """Writes a block of the result's difference to out, [P, *batch, L, Ev]."""
        first, shared = place[0], isinstance(place[0], slice)
        common: Place = (slice(0, 1) if shared else 0, *place[1:])
        count = first.stop - first.start if isinstance(first, slice) else -1
        if self._at != (common, rows, count):
            self._prepare(common, rows, count)
            self._at = common, rows, count
        scale, change, result = self._scale, self._change, self._result
        dq, dk, dv, dmask = (
            None if each is None else each[(*place, *cut)].float()
            for each, cut in zip(self._moving, self._cuts, strict=True)
        )
        pairs = [] if dq is None else [(dq, self._k.mT)]
        if dk is not None:
            pairs.append((self._q if dq is None else self._q + dq, dk.mT))
        if moves := bool(pairs):
            sum_of_products(change, pairs, scale)
        if dmask is not None:
            change.add_(dmask) if moves else change.copy_(dmask)
            moves = True
        if moves:
            causal = rows.start if self._is_causal else -1
            lines = self._lines
            count = lines.shape[0]
            arguments = lines, lines, self._shares, self._scores, causal, change.shape[1], False
            together(move_rows, arguments, count, count, alone=True)
            if self._kept is not None:
                change.mul_(self._kept)
        pairs = [(change, self._v if dv is None else self._v + dv)] if moves else []
        if dv is not None:
            pairs.append((self._weights, dv))
        sum_of_products(result, pairs, 1.0)
        out[(*place, *self._cuts[0])].copy_(result)

    def _prepare(self, place: Place, rows: slice, count: int) -> None:
        """The base's part of a block: scores and shares [n, rows, keys].

        ``count``: How many evaluations have them in common, so that n = 1; −1 if the block is of one evaluation.
        """
        query, key, value, mask, kept = (None if each is None else each[place] for each in self._still)
        assert query is not None
        assert key is not None
        assert value is not None
        keys = min(key.shape[1], rows.stop) if self._is_causal else key.shape[1]
        seen = slice(0, keys)
        self._cuts = (rows,), (seen,), (seen,), (rows, seen)
        query, key, value = query[:, rows].float(), key[:, seen].float(), value[:, seen].float()
        scores = torch.bmm(factor(query), factor(key).mT).mul_(self._scale)
        if self._is_causal:
            visible = torch.ones(scores.shape[1:], dtype=torch.bool, device="cpu").tril_(rows.start)
            scores.masked_fill_(~visible, -math.inf)
        if mask is not None:
            mask = mask[:, rows, seen]
            scores = scores.masked_fill_(~mask, -math.inf) if mask.dtype == torch.bool else scores.add_(mask)
        shares = torch.softmax(scores, -1)
        if mask is not None:  # a query that may look nowhere
            shares.masked_fill_((scores == -math.inf).all(-1, keepdim=True), 0.0)
        self._kept = None if kept is None else kept[:, rows, seen]
        weights = shares if self._kept is None else shares * self._kept
        self._scores, self._shares = (each.view(-1, keys).numpy() for each in (scores, shares))
        self._q, self._k, self._v, self._weights = (
            each.expand(count, -1, -1) for each in (query, key, value, weights)
        )
        size, height = self._q.shape[:2]
        if self._change.shape != (size, height, keys):
            self._change, self._result = (
                torch.empty(size, height, keys, dtype=torch.float32, device="cpu"),
                torch.empty(size, height, value.shape[2], dtype=torch.float32, device="cpu"),
            )
            self._lines = self._change.view(-1, keys).numpy()
