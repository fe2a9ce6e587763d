"""Maxima over windows, measured from the base's own winner.

With m the base maximum of a window, max_j(a_j + δ_j) − m = max_j((a_j − m) + δ_j): the gap a_j − m is zero for
the winner and exact for what comes near it, so nothing cancels, whoever wins after the perturbation.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import product
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from zo_triton.difference.elementwise import wide
from zo_triton.difference.registry import rule

if TYPE_CHECKING:
    from zo_triton.difference.mode import DifferenceMode

Positions = tuple[int, ...]


def largest_difference(
    maxima: Tensor, a: Tensor, delta: Tensor, windows: Sequence[Sequence[Positions]]
) -> Tensor:
    """Difference of the maximum over windows, [P, *maxima.shape].

    Args:
        maxima: m, the base result.
        a: Base input; its last axes are the pooled ones.
        delta: δ, [P, *a.shape].
        windows: For each pooled axis and each place in a window: the positions, one a result.
    """
    result: Tensor | None = None
    for places in product(*windows):
        candidate = _at(delta, places) + (_at(a, places) - maxima)
        result = candidate if result is None else torch.maximum(result, candidate, out=result)
    assert result is not None
    return result


def _at(x: Tensor, places: Sequence[Positions]) -> Tensor:
    """The elements at these positions of the last axes; a view where the positions are evenly spaced."""
    for axis, positions in enumerate(places, -len(places)):
        step = positions[1] - positions[0] if len(positions) > 1 else 1
        if step > 0 and positions == tuple(range(positions[0], positions[-1] + 1, step)):
            x = x.movedim(axis, -1)[..., positions[0] : positions[-1] + 1 : step].movedim(-1, axis)
        else:
            x = x.index_select(axis, torch.tensor(positions, device=x.device))
    return x


@lru_cache(maxsize=256)
def _sliding(
    size: int, results: int, kernel: int, stride: int, padding: int, dilation: int
) -> list[Positions]:
    """Positions of a sliding window's elements; one that lies in the padding is replaced by a neighbour in it.

    A maximum does not mind an element that it meets twice. Empty if some window has only padding.
    """
    windows = []
    for result in range(results):
        start = result * stride - padding
        inside = [p for p in range(start, start + kernel * dilation, dilation) if 0 <= p < size]
        if not inside:
            return []
        first, last = inside[0], inside[-1]
        windows.append([min(max(start + i * dilation, first), last) for i in range(kernel)])
    return list(zip(*windows, strict=True))


@lru_cache(maxsize=256)
def _adaptive(size: int, results: int) -> list[Positions]:
    """Positions of an adaptive window's elements; a shorter one repeats its last."""
    starts = [i * size // results for i in range(results)]
    ends = [-(-(i + 1) * size // results) for i in range(results)]
    longest = max(end - start for start, end in zip(starts, ends, strict=True))
    return [
        tuple(min(start + i, end - 1) for start, end in zip(starts, ends, strict=True))
        for i in range(longest)
    ]


def _each(value: Any, spatial: int) -> tuple[int, ...]:
    listed = tuple(value) if isinstance(value, (list, tuple)) else (value,)
    return tuple(int(each) for each in (listed if len(listed) == spatial else listed * spatial))


def _largest(mode: DifferenceMode, base: Any, input: Tensor, windows: Sequence[Sequence[Positions]]) -> Any:
    delta = mode.difference(input)
    assert delta is not None
    maxima = base if isinstance(base, Tensor) else base[0]
    if not all(windows):
        return NotImplemented
    if maxima.numel() == 0:
        result = torch.zeros(mode.evaluations, *maxima.shape, device=maxima.device)
    else:
        result = largest_difference(wide(maxima), wide(input), delta, windows)
    return result if isinstance(base, Tensor) else [result, None]


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
        return _largest(mode, base, input, [_sliding(*size) for size in sizes])

    def adaptive(
        mode: DifferenceMode, base: Any, input: Tensor, output_size: Any, return_indices: bool = False
    ) -> Any:
        shape = (base if isinstance(base, Tensor) else base[0]).shape[-spatial:]
        sizes = zip(input.shape[-spatial:], shape, strict=True)
        return _largest(mode, base, input, [_adaptive(*size) for size in sizes])

    rule(f"max_pool{spatial}d", f"max_pool{spatial}d_with_indices")(sliding)
    rule(f"adaptive_max_pool{spatial}d", f"adaptive_max_pool{spatial}d_with_indices")(adaptive)


for _spatial in (1, 2, 3):
    _register_maxima(_spatial)
