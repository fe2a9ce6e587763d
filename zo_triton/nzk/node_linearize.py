"""A torch network linearised at the outputs of its layers, sample by sample, in float64: for small networks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev

from zo_triton.nzk.nodes import NodeModel

LAYERS = (nn.Linear, nn.Conv2d)
"""Modules whose outputs are nodes."""


def linearize_nodes(model: nn.Module, x: Tensor, layers: Sequence[str] | None = None) -> NodeModel:
    """F, B and the outputs at the model's present parameters, for :class:`zo_triton.nzk.NodeModel`.

    Args:
        model: Maps [n, …] to [n, …], each sample on its own, with no random part. Left as it is.
        x: Inputs [n, …]; integers stay integers.
        layers: Names of the modules to perturb at their outputs, each a linear or convolution layer; by default
            all with a trained parameter. All other trained parameters count as perturbed themselves.

    Returns:
        The linearisation. Columns of B are the trained parameters of the chosen layers in the order of
        ``model.named_modules()``; nodes stand application after application, in the order of the forward pass.

    Raises:
        ValueError: A name is no such layer's, no layer is left, two modules share a chosen layer's parameter, or x
            is empty.

    Example:
        >>> import torch
        >>> from zo_triton.nzk import linearize_nodes, ntk
        >>> net, x = torch.nn.Linear(2, 3), torch.randn(4, 2)
        >>> model = linearize_nodes(net, x)
        >>> model.slopes.shape, model.inputs.shape
        ((4, 3, 3), (4, 3, 9))
        >>> bool(abs(model.ntk - ntk(net, x)).max() < 1e-9)
        True
    """
    if len(x) == 0:
        raise ValueError(f"x holds no sample, its shape is {tuple(x.shape)}.")
    wide = deepcopy(model).double().cpu()
    known = {name: module for name, module in wide.named_modules() if isinstance(module, LAYERS)}
    trained = [name for name, module in known.items() if _trained(module)]
    chosen = trained if layers is None else list(layers)
    unknown = [name for name in chosen if name not in trained]
    if unknown or not chosen:
        raise ValueError(f"layers must name linear or convolution layers of {trained}, got {chosen}.")
    modules = [known[name] for name in known if name in set(chosen)]
    owned = {id(parameter) for module in modules for parameter in _trained(module).values()}
    check_owned(wide, owned)
    others = [tensor for tensor in wide.parameters() if tensor.requires_grad and id(tensor) not in owned]
    inputs = x.detach().cpu()
    if inputs.is_floating_point():
        inputs = inputs.double()
    found = [_sample(wide, modules, others, inputs[place : place + 1]) for place in range(len(inputs))]
    slopes, tangents, outputs, rest = (np.stack([sample[part] for sample in found]) for part in range(4))
    return NodeModel(slopes, tangents, outputs.reshape(-1), rest)


def check_owned(model: nn.Module, owned: set[int]) -> None:
    """Refuses layers whose parameters, given by their ids, another module has too.

    Raises:
        ValueError: One has; what it does there, no node of the layer tells.
    """
    every = [tensor for _, tensor in model.named_parameters(remove_duplicate=False)]
    if sum(id(tensor) in owned for tensor in every) > len(owned):
        raise ValueError("two modules share a parameter of a chosen layer; choose layers that own theirs.")


def _trained(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in module.named_parameters() if tensor.requires_grad}


def _sample(
    model: nn.Module, modules: Sequence[nn.Module], others: Sequence[Tensor], x: Tensor
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """F [o, D], B [D, d], f [o] and ∂f/∂others [o, d_w] of one sample."""
    applications: list[tuple[int, Tensor, Tensor]] = []

    def watch(place: int) -> Callable[..., Tensor]:
        def hook(module: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> Tensor:
            applications.append((place, arguments[0].detach().clone(), output))
            return output.clone()  # what follows may write to it in place

        return hook

    handles = [module.register_forward_hook(watch(place)) for place, module in enumerate(modules)]
    try:
        with torch.enable_grad():
            value = model(x).reshape(-1)
    finally:
        for handle in handles:
            handle.remove()
    nodes = [output for _, _, output in applications]
    wanted = [*nodes, *others]
    rows = []
    for element in value:
        found = torch.autograd.grad(element, wanted, retain_graph=True, materialize_grads=True)
        rows.append(torch.cat([slope.reshape(-1) for slope in found]))
    slopes, rest = torch.stack(rows).split(
        [sum(tensor.numel() for tensor in part) for part in (nodes, others)], dim=1
    )
    sizes = [sum(tensor.numel() for tensor in _trained(module).values()) for module in modules]
    tangents = []
    for place, arrived, output in applications:
        block = value.new_zeros(output.numel(), sum(sizes))
        start = sum(sizes[:place])
        block[:, start : start + sizes[place]] = _tangent(modules[place], arrived)
        tangents.append(block)
    return slopes.numpy(), torch.cat(tangents).numpy(), value.detach().numpy(), rest.numpy()


def _tangent(module: nn.Module, arrived: Tensor) -> Tensor:
    """∂z/∂θ of one application, its input held: [nodes, parameters of the layer]."""

    def output(parameters: dict[str, Tensor]) -> Tensor:
        return functional_call(module, parameters, (arrived,)).reshape(-1)

    found: Any = jacrev(output)({name: tensor.detach() for name, tensor in _trained(module).items()})
    return torch.cat([slope.reshape(len(slope), -1) for slope in found.values()], dim=1)
