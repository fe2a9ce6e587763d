"""Dropout: one mask, shared by the base and all evaluations."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from zo_triton.difference.registry import handler

if TYPE_CHECKING:
    from zo_triton.difference.mode import DifferenceMode


@handler("dropout", "dropout1d", "dropout2d", "dropout3d")
def dropout_handler(mode: DifferenceMode, function: Callable, args: tuple, kwargs: dict) -> Any:
    """Draws the mask once, by dropping out ones: it then holds 0 or 1/(1 − p) and multiplies both."""
    if not mode.carries(args, kwargs):
        return function(*args, **kwargs)
    x = args[0] if args else kwargs["input"]
    share = kwargs.get("p", args[1] if len(args) > 1 else 0.5)
    if share == 0 or not kwargs.get("training", args[2] if len(args) > 2 else True):
        base = mode.once(function, *args, **kwargs)
        if base is x:
            return base
        return mode.apply(lambda mode, base: mode.needed(x).view(-1, *base.shape), base, function, (), {})
    others = {name: value for name, value in kwargs.items() if name != "input"}
    mask = mode.once(function, torch.ones_like(x), *args[1:], **others)

    def compute(mode: DifferenceMode, base: Tensor, /, *args: Any, **kwargs: Any) -> Tensor:
        delta = mode.needed(x)
        return delta * mask

    return mode.apply(compute, mode.once(torch.mul, x, mask), function, args, kwargs)
