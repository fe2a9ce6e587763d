"""Images that are looked up at given places: linear in the image while the places stay."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from zo_triton.difference.registry import handler_of_any, named, register
from zo_triton.difference.rules.multilinear import telescope

if TYPE_CHECKING:
    from zo_triton.difference.mode import DifferenceMode


def _sampled(
    mode: DifferenceMode,
    function: Callable,
    base: Tensor,
    input: Tensor,
    places: Tensor,
    /,
    *args: Any,
    **kwargs: Any,
) -> Any:
    """What is read from the image's difference; places that move are left to the subtraction."""
    if mode.carries((places,)):
        return NotImplemented
    return telescope(mode, function, base, input, places, *args, **kwargs)


register(named("grid_sample", owner=torch.nn.functional), handler_of_any(_sampled))
