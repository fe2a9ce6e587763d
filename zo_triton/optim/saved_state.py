"""What a zeroth-order optimizer saves and loads beside torch's own entries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from zo_triton.difference import Plan
from zo_triton.optim.aggregators import AGGREGATORS, Aggregator, aggregator_name
from zo_triton.optim.descent import full_precision

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
"""Settings of an optimizer that its state holds."""

UNSAVED = ("chunk", "strict")
"""Those that belong to the machine."""

SHOWN = ("directions", "eps", "seed", "distribution", "perturb", "sides", "aggregator", "steps_done")
"""Those that its repr shows: what names a step's directions, and how they are measured."""

OWN = ("last", "_measured", "_nodes", "log", "ranks")
"""What a copy does not take over."""

LATER = {"maximize": False}
"""Group options that states saved earlier don't have, and what was done without them."""

OF_TORCH = ("differentiable",)
"""Options that torch gives every optimizer that was copied or loaded, and no other."""

BEFORE = {"low_precision": "master", "perturb": "weights"}
"""What optimizers did before there was a choice, and so what states saved then say nothing of."""


def copied_state(saved: dict[str, Any]) -> dict[str, Any]:
    """Torch's state dict with tensors of its own."""
    saved["state"] = {
        index: {key: value.clone() for key, value in state.items()} for index, state in saved["state"].items()
    }
    return saved


def saved_settings(optimizer: Any) -> dict[str, Any]:
    """The settings as a state dict holds them: a function that aggregates is saved by its name."""
    settings = {name: getattr(optimizer, name) for name in SAVED}
    return {**settings, "aggregator": aggregator_name(optimizer.aggregator)}


def settings_in(
    state_dict: Mapping[str, Any], names: Sequence[str], aggregator: str | Aggregator = "average"
) -> dict[str, Any]:
    """The settings of these names in a state dict.

    Args:
        state_dict: From an optimizer's ``state_dict()``.
        names: Those that there must be.
        aggregator: The loading optimizer's: a function can't be made from its saved name.

    Raises:
        ValueError: It holds others, or was saved with a function that is not ``aggregator``.
    """
    settings = {**BEFORE, **state_dict.get("zo", {})}
    if set(settings) != set(names):
        raise ValueError(
            f"the state dict's entry 'zo' must hold {tuple(names)}, got {tuple(settings)}; load one that "
            "such an optimizer's state_dict() returned."
        )
    saved = settings["aggregator"]
    if saved not in AGGREGATORS:
        if aggregator_name(aggregator) != saved:
            raise ValueError(
                f"the state was saved with the aggregator {saved!r}, a function; make the optimizer with "
                f"aggregator= that function before it loads the state, not with {aggregator_name(aggregator)!r}."
            )
        settings["aggregator"] = aggregator
    check_plan(settings.get("plan"))
    return settings


def check_groups_fit(groups: Sequence[Mapping[str, Any]], options: Mapping[str, Any]) -> None:
    """Refuses groups of another kind of optimizer.

    Args:
        groups: In a state dict.
        options: The loading optimizer's, with their defaults.

    Raises:
        ValueError: A group lacks an option that has been there from the start.
    """
    own = [name for name in options if name not in LATER and name not in OF_TORCH]
    for group in groups:
        missing = [name for name in own if name not in group]
        if missing:
            raise ValueError(
                f"the state dict's groups have no {', '.join(missing)}: it is another kind of optimizer's; load "
                "one that the same kind's state_dict() returned."
            )


def check_tensors(state: Mapping[Any, Mapping[str, Any]]) -> None:
    """Refuses what no optimizer here remembers of a parameter, before any of it is loaded.

    Raises:
        ValueError: Something is no tensor.
    """
    for index, remembered in state.items():
        for name, value in remembered.items():
            if not isinstance(value, Tensor):
                raise ValueError(
                    f"the state dict's {name} of parameter {index} is no tensor but a {type(value).__name__}; load "
                    "one that such an optimizer's state_dict() returned."
                )


def restore_precision(optimizer: Optimizer, state_dict: Mapping[str, Any], params: Sequence[Tensor]) -> None:
    """Copies loaded tensors in their own precision.

    Torch has cast the state to the parameters' dtype, and shares memory where it had nothing to cast.
    """
    indices = chain.from_iterable(group["params"] for group in state_dict["param_groups"])
    for index, param in zip(indices, params, strict=True):
        dtype = full_precision(param)
        for key, value in state_dict["state"].get(index, {}).items():
            # A count of steps stays what and where it is, as in torch.
            own = value.clone() if key == "step" else value.to(param.device, dtype, copy=True)
            optimizer.state[param][key] = own


SavedPlan = tuple[int, int, list[int], bool, bool]
"""What a state holds of a plan: the number of directions, and all of the plan but nodes and who chose the chunk."""


def saved_plan(plan: Plan | None, num: int) -> SavedPlan | None:
    """What is kept of the plan of a step of ``num`` directions; None if it is nothing to go by."""
    if plan is None or plan.fixed:
        return None
    return num, plan.chunk, sorted(plan.keep), plan.taped, plan.mends


def check_plan(saved: Any) -> None:
    """Refuses what is no plan of a state.

    Raises:
        ValueError: It is none, and not None either.
    """
    kinds = (int, int, list, bool, bool)
    if saved is None or (
        isinstance(saved, (list, tuple))
        and 3 <= len(saved) <= len(kinds)
        and all(isinstance(each, kind) for each, kind in zip(saved, kinds, strict=False))
        and min(saved[0], saved[1]) >= 1
        and all(isinstance(each, int) for each in saved[2])
    ):
        return
    raise ValueError(
        f"the state's plan must be (directions, chunk, layers, taped, mends) or None, got {saved!r}; load a state "
        "that an optimizer's state_dict() returned."
    )


def loaded_plan(saved: Sequence[Any] | None, num: int) -> Plan | None:
    """The plan that was saved, unless it was made for another number of directions."""
    if saved is None or saved[0] != num:
        return None
    _, chunk, keep, *rest = saved
    return Plan(chunk, False, frozenset(keep), *rest)  # an older state has less to say


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
