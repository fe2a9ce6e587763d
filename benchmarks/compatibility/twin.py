"""The measure: a copy of the model in float64 is moved along each direction and its losses are subtracted."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

import zo_triton as zo
from benchmarks.compatibility.model import Loss

aten = torch.ops.aten

_NARROW = (torch.float32, torch.float16, torch.bfloat16)
_MADE = (aten.rand, aten.randn)
_DRAWN = (*_MADE, aten.rand_like, aten.randn_like, aten.bernoulli)
_DRAWN_IN_PLACE = (aten.bernoulli_, aten.uniform_, aten.normal_, aten.exponential_)


class Widened(TorchDispatchMode):
    """Computes in float64 whatever says float32, as in ``x.float()`` or ``softmax(x, dtype=torch.float32)``.

    Random numbers are drawn in float32 all the same, so that dropout masks are those of the model itself.
    """

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Runs the operation with each narrow dtype among its arguments replaced."""
        kwargs = kwargs or {}
        if func.overloadpacket in _DRAWN_IN_PLACE:
            target = args[0]
            drawn = func(torch.empty_like(target, dtype=torch.float32), *args[1:], **kwargs)
            return target.copy_(drawn)
        args, kwargs = tree_map(_widened, (args, kwargs))
        if func.overloadpacket is aten._grouped_mm:
            return _grouped(*args, **kwargs)
        if func.overloadpacket in _DRAWN:
            args, kwargs = tree_map(_narrowed, (args, kwargs))
            if func.overloadpacket in _MADE:
                kwargs["dtype"] = torch.float32
            return func(*args, **kwargs).double()
        return func(*args, **kwargs)


def seeded(module: nn.Module, loss: Loss) -> Callable[[], Tensor]:
    """A closure that sees the same random numbers each time, NumPy's and Python's own too."""

    def closure() -> Tensor:
        torch.manual_seed(0)
        np.random.seed(0)  # noqa: NPY002 -- transformers draws its masks of speech from the global state
        random.seed(0)
        return loss(module)

    return closure


def trained(module: nn.Module) -> list[nn.Parameter]:
    """The parameters that a step would move."""
    return [each for each in module.parameters() if each.requires_grad]


def subtracted(module: nn.Module, loss: Loss, directions: zo.Directions, eps: float) -> tuple[Tensor, Tensor]:
    """L(θ) and L(θ + εz_k) − L(θ), [K], of the module's float64 copy; the module itself stays as it is."""
    params = trained(module)
    zs = [zo.sample(directions, tensor_id, each.shape) for tensor_id, each in enumerate(params)]
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.no_grad(), Widened():
            base = seeded(_moved(module, [], eps), loss)()
            rows = [
                seeded(_moved(module, [z[k].double() for z in zs], eps), loss)() - base
                for k in range(directions.num)
            ]
    finally:
        torch.set_default_dtype(default)
    return base, torch.stack(rows)


def _moved(module: nn.Module, z: list[Tensor], eps: float) -> nn.Module:
    """A float64 copy, its trained parameters moved by ε times what there is of z."""
    twin = copy.deepcopy(module).double()
    for parameter, along in zip(trained(twin), z):
        parameter.add_(along, alpha=eps)
    return twin


def _grouped(rows: Tensor, matrices: Tensor, offs: Tensor, **options: Any) -> Tensor:
    """Each group of rows [R, in] times its matrix [G, in, out]: torch has no such product in float64."""
    ends = offs.tolist()
    product = rows.new_zeros(rows.shape[0], matrices.shape[2])
    for matrix, start, end in zip(matrices, [0, *ends], ends):
        product[start:end] = rows[start:end] @ matrix
    return product


def _widened(value: Any) -> Any:
    return torch.float64 if value in _NARROW else value


def _narrowed(value: Any) -> Any:
    if value is torch.float64:
        return torch.float32
    return value.float() if isinstance(value, Tensor) and value.dtype is torch.float64 else value
