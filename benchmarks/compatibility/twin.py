"""The measure: a copy of the model in float64 is moved along each direction and its losses are subtracted."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from typing import NamedTuple
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn

import zo_triton as zo
from benchmarks.compatibility.model import Loss
from benchmarks.compatibility.widened import Choices, Widened


class Measure(NamedTuple):
    """What the float64 copy says.

    Attributes:
        base: L(θ), [].
        differences: L(θ + εz_k) − L(θ), [K].
        kept: The same where the model chooses as the base does; [K].
        flips: Whether it chooses otherwise: a top-k, an argmax, a comparison; bool [K].
    """

    base: Tensor
    differences: Tensor
    kept: Tensor
    flips: Tensor


def seeded(module: nn.Module, loss: Loss) -> Callable[[], Tensor]:
    """A closure that sees the same random numbers each time, NumPy's and Python's own too."""

    def closure() -> Tensor:
        torch.manual_seed(0)
        np.random.seed(0)  # noqa: NPY002 -- transformers draws its masks of speech from the global state
        random.seed(0)
        with mock.patch("torch.seed", return_value=0):  # a Reformer takes its masks from the system's entropy
            return loss(module)

    return closure


def trained(module: nn.Module) -> list[Tensor]:
    """The parameters that a step would move."""
    return [each for each in module.parameters() if each.requires_grad]


def subtracted(module: nn.Module, loss: Loss, directions: zo.Directions, eps: float) -> Measure:
    """Measures the module's float64 copy; the module itself stays as it is."""
    params = trained(module)
    zs = [zo.sample(directions, tensor_id, each.shape) for tensor_id, each in enumerate(params)]
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        choices = Choices()
        base = _loss(module, loss, [], eps, choices)
        rows, kept, flips = [], [], []
        for k in range(directions.num):
            along = [z[k].double() for z in zs]
            theirs = Choices()
            rows.append(_loss(module, loss, along, eps, theirs) - base)
            flips.append(theirs != choices)
            kept.append(_loss(module, loss, along, eps, choices.held()) - base if flips[-1] else rows[-1])
    finally:
        torch.set_default_dtype(default)
    return Measure(base, torch.stack(rows), torch.stack(kept), torch.tensor(flips))


def _loss(module: nn.Module, loss: Loss, along: list[Tensor], eps: float, choices: Choices) -> Tensor:
    """The loss of a float64 copy whose trained parameters are moved by ε times what there is of z."""
    twin = copy.deepcopy(module).double()
    with torch.no_grad():
        if along:
            torch._foreach_add_(trained(twin), along, alpha=eps)
        with Widened(choices):
            return seeded(twin, loss)()
