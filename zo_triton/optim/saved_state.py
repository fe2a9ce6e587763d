"""What a ZOSGD saves and loads beside torch's own entries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from zo_triton.difference import Plan
from zo_triton.optim.descent import FULL_PRECISION

SAVED = (
    "seed",
    "steps_done",
    "directions",
    "eps",
    "distribution",
    "sides",
    "aggregator",
    "compute_dtype",
    "rank",
    "rounds",
    "low_precision",
    "plan",
    "perturb",
)
"""Settings of a ZOSGD that its state holds."""

UNSAVED = ("chunk", "strict")
"""Those that belong to the machine."""

OWN = ("last", "_measured", "_nodes", "log", "ranks")
"""What a copy does not take over."""

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


def saved_plan(plan: Plan | None, num: int) -> tuple[int, int, list[int], bool] | None:
    """What is kept of the plan of a step of ``num`` directions; None if it is nothing to go by."""
    if plan is None or plan.fixed:
        return None
    return num, plan.chunk, sorted(plan.keep), plan.taped


def loaded_plan(saved: Sequence[Any] | None, num: int) -> Plan | None:
    """The plan that was saved, unless it was made for another number of directions."""
    if saved is None or saved[0] != num:
        return None
    _, chunk, keep, *rest = saved
    taped = rest[0] if rest else True  # a state of before there were tapes says nothing of them
    return Plan(chunk, False, frozenset(keep), taped)


def facts_of(optimizer: Optimizer, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What the ranks that share an optimizer's steps must have in common."""
    groups = optimizer.param_groups
    options = {
        f"group {number}.{key}": value
        for number, group in enumerate(groups)
        for key, value in group.items()
        if key != "params"
    }
    params = [param for group in groups for param in group["params"]]
    memory = [value for param in params for value in optimizer.state.get(param, {}).values()]
    return {"weights": params, "optimizer state": memory, "settings": {**settings, **options}}
