"""Whether the two compiled calls of FusedTrainer do what the general way would: asked anew at every step."""

from __future__ import annotations

from collections.abc import Sequence
from operator import is_

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer

from zo_triton.optim import foreign_code

_PLAIN_ADAM = {"amsgrad": False, "maximize": False, "decoupled_weight_decay": False}
_PLAIN_SGD = {"nesterov": False, "maximize": False, "dampening": 0}


def why_not(model: nn.Module, params: Sequence[Tensor], optimizer: Optimizer) -> str | None:
    """Why a step can't be compiled, in words; None if it can. Takes 10 µs for three layers.

    Args:
        model: Would be called.
        params: The tensors that a step trains, in the model's order.
        optimizer: Would move them.
    """
    return _model(model, params) or _rule(optimizer, params) or foreign_code.in_optimizer(optimizer)


def _model(model: nn.Module, params: Sequence[Tensor]) -> str | None:
    """The model must be Linear, ReLU, Linear, … Linear, all float32, contiguous, with bias and trained."""
    if not isinstance(model, nn.Sequential):
        return f"the model is a {type(model).__name__}, no Sequential"
    layers = list(model)
    kinds = [type(layer) for layer in layers]
    if kinds != [nn.Linear, nn.ReLU] * (len(kinds) // 2) + [nn.Linear]:
        return "the model is not Linear and ReLU by turns, from Linear to Linear"
    own = [layer._parameters[name] for layer in layers[::2] for name in ("weight", "bias")]
    if len(own) != len(params) or not all(map(is_, own, params)):
        return "the layers' weights and biases are not the trained parameters"
    for param in params:
        if param.dtype != torch.float32 or not param.is_cpu:
            return f"a parameter is of {param.dtype} on {param.device}, not of float32 on the CPU"
        if not param.is_contiguous() or not param.requires_grad:
            return "a parameter is not contiguous, or frozen"
    if torch.is_autocast_enabled("cpu"):
        return "autocast chooses the dtype"
    return foreign_code.in_modules((model, *layers))


def _rule(optimizer: Optimizer, params: Sequence[Tensor]) -> str | None:
    """The optimizer must be one group of torch's own Adam or SGD, with only what the compiled update knows."""
    kind = type(optimizer)
    expected = _PLAIN_ADAM if kind is Adam else _PLAIN_SGD if kind is SGD else None
    if expected is None:
        return f"the optimizer is a {kind.__name__}, neither Adam nor SGD"
    if len(optimizer.param_groups) != 1:
        return f"the optimizer has {len(optimizer.param_groups)} groups of parameters"
    group = optimizer.param_groups[0]
    held = group["params"]
    if len(held) != len(params) or not all(map(is_, held, params)):
        return "the optimizer holds other tensors than the trained parameters"
    for key, value in expected.items():
        if group.get(key, value) != value:
            return f"the optimizer's {key} is {group[key]}"
    if isinstance(group["lr"], Tensor):
        return "the learning rate is a tensor"
    if kind is Adam:
        # The compiled update corrects all moments by one count; a layer whose memory was dropped counts anew.
        counts = {float(optimizer.state.get(param, {}).get("step", 0)) for param in params}
        if len(counts) > 1:
            return (
                f"the optimizer has counted from {min(counts):g} to {max(counts):g} steps of the parameters"
            )
    return None
