"""Activations: one exact formula each in ``ops``, left pending for the layer before to fuse."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from zo_triton import ops
from zo_triton.difference import chains
from zo_triton.difference.entries import Entry
from zo_triton.difference.pending_layers import PendingActivation, PendingLayer
from zo_triton.difference.registry import named, register

if TYPE_CHECKING:
    from zo_triton.difference.mode import DifferenceMode


def _rule(activation: str) -> Callable:
    def compute(mode: DifferenceMode, base: Tensor, input: Tensor) -> Tensor:
        delta = mode.needed(input)
        return ops.activation_difference(input.float(), delta.to(mode.compute_dtype), activation)

    return compute


_RULES = {name: _rule(name) for name in ("relu", "tanh", "sigmoid", "gelu", "gelu_tanh", "silu")}
"""Of activations behind something else than a pending layer."""


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
        if entry is not None and isinstance(entry.lazy, PendingLayer) and not entry.lazy.spent:
            alias = x.detach() if x.dtype == torch.float32 else x.float()
            mode.put(base, Entry(None, PendingActivation(entry, chosen, alias)))
            return base
        if chains.defer(mode, _RULES[chosen], base, (x,), {}):
            return base
        return mode.apply(_RULES[chosen], base, function, (x,), {})

    register(named(*functions), handle)


_register("relu", "relu")
_register("tanh", "tanh")
_register("sigmoid", "sigmoid", "expit")
_register("gelu", "gelu")
_register("silu", "silu")
