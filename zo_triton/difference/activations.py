"""Activations: one exact formula each in ``ops``, fused into the linear layer before where there is one."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from zo_triton import ops
from zo_triton.difference.entries import Entry, PendingLinear
from zo_triton.difference.registry import HANDLERS, named

if TYPE_CHECKING:
    from zo_triton.difference.mode import DifferenceMode


def _register(name: str, *functions: str) -> None:
    def handle(mode: DifferenceMode, function: Callable, args: tuple, kwargs: dict) -> Any:
        x = args[0] if args else kwargs["input"]
        entry = mode.entries.get(id(x))
        if entry is None and id(x) not in mode.ids:
            return function(*args, **kwargs)
        chosen = name
        if name == "gelu" and "tanh" in (*args[1:], kwargs.get("approximate")):
            chosen = "gelu_tanh"
        base = function(*args, **kwargs)
        mode.put(base, Entry(_difference(mode, x, entry, chosen), None, True))
        return base

    for target in named(*functions):
        HANDLERS[target] = handle


def _difference(mode: DifferenceMode, x: Tensor, entry: Entry | None, activation: str) -> Tensor:
    """f(x + δ) − f(x), [P, *x.shape]; a pending linear layer computes it in its own epilogue."""
    base = x if x.dtype == torch.float32 else x.float()
    if entry is None:
        delta = mode.materialise(mode.ids[id(x)], x).to(mode.compute_dtype)
    elif isinstance(entry.lazy, PendingLinear) and entry.lazy.index not in mode.plan.keep:
        return entry.lazy.compute(mode, activation, base)
    else:
        delta = mode.resolve(entry)
    return ops.activation_difference(base, delta, activation)


_register("relu", "relu")
_register("tanh", "tanh")
_register("sigmoid", "sigmoid", "expit")
_register("gelu", "gelu")
_register("silu", "silu")
