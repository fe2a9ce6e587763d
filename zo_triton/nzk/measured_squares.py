"""The squared sums that decide where to perturb, measured with autograd on any model: for checks."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from zo_triton.nzk.node_linearize import LAYERS, check_owned
from zo_triton.optim.where_to_perturb import Layer, Squares


def layer_squares(
    model: nn.Module, x: Tensor, losses: Callable[[Tensor], Tensor]
) -> tuple[dict[str, Squares], dict[str, Layer]]:
    """What each layer is exposed to and sends, for :func:`zo_triton.optim.where_to_perturb.relative_error`.

    Args:
        model: Maps [n, …] to [n, …], each sample on its own, with no random part. Left as it is.
        x: Inputs [n, …]; integers stay integers.
        losses: Maps the model's float64 outputs to the samples' own losses, [n].

    Returns:
        By the layers' names the squared sums, and what a forward pass alone knows of them. Layers stand in the
        order of their first application; last, as ``"others"``, the parameters that no linear or convolution layer
        owns.

    Raises:
        ValueError: ``losses`` does not return one loss a sample, or two modules share a layer's parameter.
    """
    wide = deepcopy(model).double().cpu()
    names: dict[nn.Module, str] = {
        module: name for name, module in wide.named_modules() if isinstance(module, LAYERS)
    }
    calls: dict[nn.Module, list[tuple[Tensor, Tensor]]] = {}

    def hook(module: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> Tensor:
        calls.setdefault(module, []).append((arguments[0].detach().clone(), output))
        return output.clone()  # what follows may write to it in place

    handles = [module.register_forward_hook(hook) for module in names if _trained(module)]
    inputs = x.detach().cpu()
    try:
        with torch.enable_grad():
            value = losses(wide(inputs.double() if inputs.is_floating_point() else inputs))
    finally:
        for handle in handles:
            handle.remove()
    if value.shape != (len(x),):
        raise ValueError(f"losses must return [{len(x)}], one a sample, got shape {tuple(value.shape)}.")
    owned = {id(tensor) for module in calls for tensor in module.parameters()}
    check_owned(wide, owned)
    others = [tensor for tensor in wide.parameters() if tensor.requires_grad and id(tensor) not in owned]
    nodes = [output for applications in calls.values() for _, output in applications]
    slopes = iter(torch.autograd.grad(value.sum(), nodes, retain_graph=True, materialize_grads=True))
    found = {
        names[module]: _layer(module, [(arrived, next(slopes)) for arrived, _ in applications])
        for module, applications in calls.items()
    }
    if others:
        rows = [torch.cat([slope.flatten() for slope in _slopes(loss, others)]) for loss in value.unbind()]
        found["others"] = _others(torch.stack(rows))
    known = {
        name: Layer(one.nodes, one.weights, float(one.inputs.mean()) / one.nodes if one.nodes else 1.0)
        for name, one in found.items()
    }
    return found, known


def _trained(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach() for name, tensor in module.named_parameters() if tensor.requires_grad}


def _slopes(loss: Tensor, others: list[Any]) -> tuple[Tensor, ...]:
    return torch.autograd.grad(loss, others, retain_graph=True, materialize_grads=True)


def _layer(module: nn.Module, applications: list[tuple[Tensor, Tensor]]) -> Squares:
    """Of one layer, its applications given by input and slope of the output, both [n, …]."""
    trained, samples = _trained(module), len(applications[0][0])
    # With ones for weights a layer adds up its inputs; those that are not trained count nothing.
    ones = {
        name: torch.full_like(tensor.detach(), float(name in trained))
        for name, tensor in module.named_parameters()
    }

    def share(parameters: dict[str, Tensor], arrived: Tensor, slope: Tensor) -> Tensor:
        return (functional_call(module, parameters, (arrived[None],))[0] * slope).sum()

    inputs, slopes, own = torch.zeros(3, samples, dtype=torch.float64, device="cpu")
    gradients: list[Tensor] = []
    for arrived, slope in applications:
        squares = functional_call(module, ones, (arrived.square(),)).detach().reshape(samples, -1)
        steep = slope.reshape(samples, -1).square()
        inputs += squares.sum(1)
        slopes += steep.sum(1)
        own += (squares * steep).sum(1)
        parts: Any = vmap(grad(share), in_dims=(None, 0, 0))(trained, arrived, slope)
        gradients.append(torch.cat([part.reshape(samples, -1) for part in parts.values()], dim=1))
    each = torch.stack(gradients).sum(0)
    nodes = sum(slope.numel() for _, slope in applications) // samples
    return Squares(
        nodes,
        each.shape[1],
        inputs.numpy(),
        slopes.numpy(),
        each.square().sum(1).numpy(),
        own.numpy(),
        float(each.mean(0).square().sum()),
    )


def _others(each: Tensor) -> Squares:
    """Of parameters without nodes, from each sample's gradient [n, d]."""
    nothing = np.zeros(len(each))
    squares = each.square().sum(1).numpy()
    return Squares(0, each.shape[1], nothing, nothing, squares, nothing, float(each.mean(0).square().sum()))
