"""Functions that are linear in their first argument and know a batch axis: the P axis joins that one.

Averages over windows, resampling, taking windows apart and putting them together, padding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from zo_triton.difference.registry import rule

if TYPE_CHECKING:
    from zo_triton.difference.mode import DifferenceMode


def on_every(function: Callable[[Tensor], Tensor], delta: Tensor, sample_axes: int) -> Tensor:
    """A function of one batch axis before ``sample_axes`` others, or of none, on [P, …].

    In float32 where torch has none for the differences' own type, as for averages in space on a CPU.
    """
    if delta.dim() - 1 != sample_axes:
        return on_every(function, delta.flatten(0, 1), sample_axes).unflatten(0, delta.shape[:2])
    try:
        return function(delta)
    except NotImplementedError:
        if delta.dtype == torch.float32:
            raise
        return function(delta.float())


def _register(name: str, sample_axes: int | None) -> None:
    """``sample_axes``: how many axes one sample has; None for all but the first."""
    function = getattr(F, name)

    @rule(name, owner=F)
    def _(run: DifferenceMode, base: Tensor, input: Tensor, *args: Any, **kwargs: Any) -> Any:
        delta = run.difference(input)  # not called mode: interpolate has an argument of that name
        if delta is None:
            return NotImplemented
        if base.numel() == 0:
            return delta.new_zeros(run.evaluations, *base.shape)
        axes = sample_axes or input.dim() - 1
        return on_every(lambda each: function(each, *args, **kwargs), delta, axes)


for _spatial in (1, 2, 3):
    _register(f"avg_pool{_spatial}d", _spatial + 1)
    _register(f"adaptive_avg_pool{_spatial}d", _spatial + 1)
for _name in ("interpolate", "upsample"):
    _register(_name, None)
_register("unfold", 3)
_register("fold", 2)


@rule("pad")
def pad(
    run: DifferenceMode,
    base: Tensor,
    input: Tensor,
    pad: Sequence[int],
    mode: str = "constant",
    value: Any = None,
) -> Any:
    """Zeros where a constant is put; elements repeat, mirror or wrap around as the base's do."""
    delta = run.difference(input)
    if delta is None:
        return NotImplemented
    if mode == "constant":
        return F.pad(delta, list(pad))
    return on_every(lambda each: F.pad(each, list(pad), mode), delta, len(pad) // 2 + 1)
