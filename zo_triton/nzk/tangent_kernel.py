"""The neural tangent kernel of a torch model, and the linear model that it is the kernel of.

Rows belong to outputs: with o outputs a sample, row i·o + j is output j of sample i. Columns belong to the
trained parameters, in the order of ``model.parameters()``, each flattened: the field's order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vmap

from zo_triton.nzk.arrays import as_vector


@dataclass(frozen=True, eq=False)
class Linearized:
    """A model's first-order expansion f₀ + J(θ − θ₀) in its parameters.

    Args:
        outputs: f₀, float64 [n].
        features: J, float64 [n, d].
        shapes: The trained tensors that the columns belong to, as :func:`zo_triton.nzk.expected` takes them.
    """

    outputs: np.ndarray
    features: np.ndarray
    shapes: tuple[tuple[int, ...], ...]

    def __call__(self, displacement: Any) -> np.ndarray:
        """f₀ + J·displacement.

        Args:
            displacement: θ − θ₀, all trained tensors flattened and joined, [d].

        Returns:
            float64 [n].

        Raises:
            ValueError: Another length than d, or a NaN.
        """
        return self.outputs + self.features @ as_vector(displacement, "displacement", self.features.shape[1])


def ntk(model: nn.Module, x: Tensor) -> np.ndarray:
    """The empirical neural tangent kernel JJᵀ at the model's present parameters.

    Args:
        model: Maps [n, …] to [n], [n, o] or [n, …], each sample on its own.
        x: Inputs [n, …].

    Returns:
        float64 [n·o, n·o]: all pairs of outputs, none summed.

    Raises:
        TypeError: ``model`` is no module, or ``x`` no floating-point tensor.
        ValueError: No parameter is trained, there is no sample, or a layer makes one sample's output depend on
            chance or on the other samples: in training mode, or a batch norm without running statistics.

    Example:
        >>> import torch
        >>> from zo_triton.nzk import ntk
        >>> ntk(torch.nn.Linear(2, 1), torch.tensor([[3.0, 4.0]]))
        array([[26.]])
    """
    features = jacobian(model, x)
    return features @ features.T


def jacobian(model: nn.Module, x: Tensor) -> np.ndarray:
    """∂f/∂θ of every output with respect to every trained parameter, in float64.

    Args:
        model: As in :func:`ntk`.
        x: Inputs [n, …].

    Returns:
        float64 [n·o, d].

    Raises:
        TypeError: As :func:`ntk`.
        ValueError: As :func:`ntk`.
    """
    return linearize(model, x).features


def linearize(model: nn.Module, x: Tensor) -> Linearized:
    """Expands a model to first order around its present parameters, on the inputs x.

    The model runs in float64 on copies of its parameters and buffers and is left as it is.

    Args:
        model: As in :func:`ntk`.
        x: Inputs [n, …].

    Returns:
        Outputs, Jacobian and shapes.

    Raises:
        TypeError: As :func:`ntk`.
        ValueError: As :func:`ntk`.

    Example:
        >>> import torch
        >>> from zo_triton.nzk import linearize
        >>> line = linearize(torch.nn.Linear(2, 1), torch.tensor([[3.0, 4.0]]))
        >>> line.features, line.shapes
        (array([[3., 4., 1.]]), ((1, 2), (1,)))
        >>> line([0.0, 0.0, 1.0]) - line.outputs
        array([1.])
    """
    check_model(model, x)
    # By attribute: functional_call's own handling of shared tensors does not put a reused module back.
    tensors = {
        f"{path}.{name}" if path else name: tensor
        for path, module in model.named_modules()
        for name, tensor in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False))
    }
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    place = {id(parameter): position for position, parameter in enumerate(trained)}
    fixed = {name: _in_float64(tensor) for name, tensor in tensors.items() if id(tensor) not in place}
    moving = {name: place[id(tensor)] for name, tensor in tensors.items() if id(tensor) in place}

    def outputs(parameters: tuple[Tensor, ...], sample: Tensor) -> tuple[Tensor, Tensor]:
        state = {**fixed, **{name: parameters[position] for name, position in moving.items()}}
        value = functional_call(model, state, (sample.unsqueeze(0),), tie_weights=False).flatten()
        return value, value

    # torch's recurrent layers write in place where vmap can't follow.
    recurrent = any(isinstance(module, nn.RNNBase) for module in model.modules())
    per_sample = _one_by_one if recurrent else _at_once
    with torch.enable_grad():
        slopes, values = per_sample(outputs, tuple(map(_in_float64, trained)), x.detach().double())
    columns = [slope.detach().reshape(values.numel(), -1) for slope in slopes]
    return Linearized(
        outputs=values.detach().reshape(-1).cpu().numpy(),
        features=torch.cat(columns, dim=1).cpu().numpy(),
        shapes=tuple(tuple(parameter.shape) for parameter in trained),
    )


def _at_once(
    outputs: Callable[..., tuple[Tensor, Tensor]], parameters: tuple[Tensor, ...], x: Tensor
) -> tuple[tuple[Tensor, ...], Tensor]:
    """The slopes of each sample's outputs, [n, o, *shape] for each parameter, and the outputs, [n, o]."""
    return vmap(jacrev(outputs, has_aux=True), in_dims=(None, 0))(parameters, x)


def _one_by_one(
    outputs: Callable[..., tuple[Tensor, Tensor]], parameters: tuple[Tensor, ...], x: Tensor
) -> tuple[tuple[Tensor, ...], Tensor]:
    """The same by one backward pass an output."""
    leaves = tuple(parameter.requires_grad_() for parameter in parameters)
    values = torch.stack([outputs(leaves, sample)[0] for sample in x])
    rows = [
        torch.autograd.grad(value, leaves, retain_graph=True, materialize_grads=True)
        for value in values.flatten()
    ]
    slopes = (torch.stack(column).unflatten(0, values.shape) for column in zip(*rows, strict=True))
    return tuple(slopes), values


def _in_float64(tensor: Tensor) -> Tensor:
    return tensor.detach().double() if tensor.is_floating_point() else tensor.detach()


def check_model(model: nn.Module, x: Tensor) -> None:
    """Refuses what no tangent kernel is known of.

    Raises:
        TypeError: As :func:`ntk`.
        ValueError: As :func:`ntk`.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {model!r} of type {type(model).__name__}.")
    if not isinstance(x, Tensor):
        raise TypeError(f"x must be a floating-point tensor, got {x!r} of type {type(x).__name__}.")
    if not x.is_floating_point():
        raise TypeError(f"x must be a floating-point tensor, got dtype {x.dtype}.")
    if x.ndim < 1 or x.shape[0] == 0:
        raise ValueError(f"x must hold at least one sample, got shape {tuple(x.shape)}.")
    for name, module in model.named_modules():
        unsteady = isinstance(module, (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd)) or (
            isinstance(module, nn.RNNBase) and module.dropout > 0
        )
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is None:
            raise ValueError(
                f"{type(module).__name__} {name!r} has no running statistics, so no sample has an output of "
                "its own even in eval mode; make it with track_running_stats=True, or use GroupNorm or LayerNorm."
            )
        if unsteady and module.training:
            raise ValueError(
                f"{type(module).__name__} {name!r} is in training mode, where no sample has an output of its "
                "own; call model.eval() first."
            )
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError("the model has no parameter that requires a gradient; there is nothing to train.")
