"""Activations: one exact formula each in ``ops``, left pending for the layer before to fuse."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from zo_triton import ops
from zo_triton.difference.entries import Entry, PendingActivation, PendingLayer
from zo_triton.difference.registry import named, register

if TYPE_CHECKING:
    from zo_triton.difference.mode import DifferenceMode


def _register(name: str, *functions: str) -> None:
    def handle(mode: DifferenceMode, function: Callable, args: tuple, kwargs: dict) -> Any:
        x = args[0] if args else kwargs["input"]
        entry = mode.entry_of(x)
        if entry is None and id(x) not in mode.ids:
            return function(*args, **kwargs)
        chosen = name
        if name == "gelu" and "tanh" in (*args[1:], kwargs.get("approximate")):
            chosen = "gelu_tanh"
        base = mode.once(function, *args, **kwargs)
        alias = x.detach() if x.dtype == torch.float32 else x.float()
        if entry is not None and isinstance(entry.lazy, PendingLayer) and not entry.lazy.spent:
            mode.put(base, Entry(None, PendingActivation(entry, chosen, alias)))
            return base
        if entry is None:
            delta = mode.materialise(mode.ids[id(x)], x).to(mode.compute_dtype)
        else:
            delta = mode.resolve(entry)
        mode.put(base, Entry(ops.activation_difference(alias, delta, chosen), None, True))
        return base

    register(named(*functions), handle)


_register("relu", "relu")
_register("tanh", "tanh")
_register("sigmoid", "sigmoid", "expit")
_register("gelu", "gelu")
_register("silu", "silu")
