"""Maxima over windows, measured from the base's own winner.

With m the base maximum of a window, max_j(a_j + δ_j) − m = max_j((a_j − m) + δ_j): the gap a_j − m is zero for
the winner and exact for what comes near it, so nothing cancels, whoever wins after the perturbation.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from zo_triton import ops
from zo_triton._memory import empty
from zo_triton.difference.pending_layers import PendingActivation
from zo_triton.difference.registry import rule
from zo_triton.difference.rules.elementwise import wide
from zo_triton.ops import engines

if TYPE_CHECKING:
    from zo_triton.difference.mode import DifferenceMode

Positions = tuple[int, ...]

PIECES = 2
"""Into how many the memory budget falls for what is made and used up piece by piece."""


def largest_difference(maxima: Tensor, a: Tensor, places: Tensor) -> Callable[[Tensor], Tensor]:
    """What makes of δ, [P, *a.shape], the difference of the maximum over windows, [P, *maxima.shape].

    Args:
        maxima: m, the base result, [*planes, *pooled].
        a: Base input, [*planes, *its own pooled axes].
        places: [J, R] int64: the J elements of each window, as positions in a plane.
    """
    results, planes = places.shape[1], maxima.numel() // places.shape[1]
    gaps = (a.reshape(planes, -1)[:, places] - maxima.reshape(planes, 1, results)).float()

    def of(delta: Tensor) -> Tensor:
        moved = delta.reshape(delta.shape[0], planes, -1)
        return ops.largest_difference(moved, gaps, places).view(-1, *maxima.shape)

    return of


@engines.remembered(maxsize=64)
def _table(
    windows: tuple[tuple[Positions, ...], ...], sizes: tuple[int, ...], device: torch.device
) -> Tensor:
    """Positions in a plane of every window's elements, int64 [J, R], from those along each axis."""
    axes = [np.array(each) * prod(sizes[axis + 1 :]) for axis, each in enumerate(windows)]
    table = axes[0]
    for axis in axes[1:]:
        table = (table[:, None, :, None] + axis[None, :, None, :]).reshape(
            len(table) * len(axis), table.shape[1] * axis.shape[1]
        )
    return torch.from_numpy(table).to(device)


@lru_cache(maxsize=256)
def _sliding(
    size: int, results: int, kernel: int, stride: int, padding: int, dilation: int
) -> tuple[Positions, ...]:
    """Positions of a sliding window's elements; one that lies in the padding is replaced by a neighbour in it.

    A maximum does not mind an element that it meets twice. Empty if some window has only padding.
    """
    windows = []
    for result in range(results):
        start = result * stride - padding
        inside = [p for p in range(start, start + kernel * dilation, dilation) if 0 <= p < size]
        if not inside:
            return ()
        first, last = inside[0], inside[-1]
        windows.append([min(max(start + i * dilation, first), last) for i in range(kernel)])
    return tuple(zip(*windows, strict=True))


@lru_cache(maxsize=256)
def _adaptive(size: int, results: int) -> tuple[Positions, ...]:
    """Positions of an adaptive window's elements; a shorter one repeats its last."""
    starts = [i * size // results for i in range(results)]
    ends = [-(-(i + 1) * size // results) for i in range(results)]
    longest = max(end - start for start, end in zip(starts, ends, strict=True))
    return tuple(
        tuple(min(start + i, end - 1) for start, end in zip(starts, ends, strict=True))
        for i in range(longest)
    )


def _each(value: Any, spatial: int) -> tuple[int, ...]:
    listed = tuple(value) if isinstance(value, (list, tuple)) else (value,)
    return tuple(int(each) for each in (listed if len(listed) == spatial else listed * spatial))


def _largest(
    mode: DifferenceMode, base: Any, input: Tensor, windows: tuple[tuple[Positions, ...], ...]
) -> Any:
    maxima = base if isinstance(base, Tensor) else base[0]
    if not all(windows):
        return NotImplemented
    if maxima.numel() == 0:
        mode.ignore(input)
        result = torch.zeros(mode.evaluations, *maxima.shape, dtype=torch.float32, device=maxima.device)
    else:
        places = engines.kept(_table(windows, input.shape[-len(windows) :], input.device))
        result = _shrunk(mode, input, maxima.shape, largest_difference(wide(maxima), wide(input), places))
    return result if isinstance(base, Tensor) else [result, None]


def _shrunk(
    mode: DifferenceMode, value: Tensor, shape: torch.Size, function: Callable[[Tensor], Tensor]
) -> Tensor:
    """``function`` of the difference of an argument that carries one: [P, *shape], smaller than the argument.

    A pending convolution's difference is made and shrunk a few directions at a time, while it is in the
    cache, and is never there whole.
    """
    entry = mode.entry_of(value)
    if entry is not None and isinstance(entry.lazy, PendingActivation):
        each = value.numel() * mode.sides * mode.compute_dtype.itemsize
        pieces = entry.lazy.pieces(mode, max(1, mode.budget // PIECES // each))
        if pieces is not None:
            mode.reserve(shape.numel())
            result = empty((mode.evaluations, *shape), mode.compute_dtype, value.device)
            for evaluations, piece in pieces:
                result[evaluations] = function(piece)
            return result
    return function(mode.needed(value))


def _register_maxima(spatial: int) -> None:
    def sliding(
        mode: DifferenceMode,
        base: Any,
        input: Tensor,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        dilation: Any = 1,
        ceil_mode: bool = False,
        return_indices: bool = False,
    ) -> Any:
        shape = (base if isinstance(base, Tensor) else base[0]).shape[-spatial:]
        settings = (
            _each(each, spatial) for each in (kernel_size, kernel_size if stride in (None, (), []) else stride,
                                              padding, dilation)
        )  # fmt: skip
        sizes = zip(input.shape[-spatial:], shape, *settings, strict=True)
        return _largest(mode, base, input, tuple(_sliding(*size) for size in sizes))

    def adaptive(
        mode: DifferenceMode, base: Any, input: Tensor, output_size: Any, return_indices: bool = False
    ) -> Any:
        shape = (base if isinstance(base, Tensor) else base[0]).shape[-spatial:]
        sizes = zip(input.shape[-spatial:], shape, strict=True)
        return _largest(mode, base, input, tuple(_adaptive(*size) for size in sizes))

    rule(f"max_pool{spatial}d", f"max_pool{spatial}d_with_indices")(sliding)
    rule(f"adaptive_max_pool{spatial}d", f"adaptive_max_pool{spatial}d_with_indices")(adaptive)


for _spatial in (1, 2, 3):
    _register_maxima(_spatial)
