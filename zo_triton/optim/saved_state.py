"""What a ZOSGD saves and loads beside torch's own entries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from zo_triton.optim.descent import FULL_PRECISION

BEFORE = {"low_precision": "master", "perturb": "weights"}
"""What optimizers did before there was a choice, and so what states saved then say nothing of."""


def copied_state(saved: dict[str, Any]) -> dict[str, Any]:
    """Torch's state dict with tensors of its own."""
    saved["state"] = {
        index: {key: value.clone() for key, value in state.items()} for index, state in saved["state"].items()
    }
    return saved


def settings_in(state_dict: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """The settings of these names in a state dict.

    Raises:
        ValueError: It holds others.
    """
    settings = {**BEFORE, **state_dict.get("zo", {})}
    if set(settings) != set(names):
        raise ValueError(
            f"the state dict's entry 'zo' must hold {tuple(names)}, got {tuple(settings)}; load one that "
            "ZOSGD.state_dict() returned."
        )
    return settings


def restore_precision(optimizer: Optimizer, state_dict: Mapping[str, Any], params: Sequence[Tensor]) -> None:
    """Copies loaded tensors in their own precision.

    Torch has cast the state to the parameters' dtype, and shares memory where it had nothing to cast.
    """
    indices = chain.from_iterable(group["params"] for group in state_dict["param_groups"])
    for index, param in zip(indices, params, strict=True):
        dtype = param.dtype if param.dtype in FULL_PRECISION else torch.float32
        for key, value in state_dict["state"].get(index, {}).items():
            optimizer.state[param][key] = value.to(param.device, dtype, copy=True)
