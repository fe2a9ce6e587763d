"""What a log says of an optimizer, and an optimizer made from what a log says."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer

from zo_triton.optim import ZOSGD, ZOAdam, foreign_code
from zo_triton.optim.aggregators import aggregator_name
from zo_triton.optim.gradient_step import GradientStep
from zo_triton.optim.optimizer import ZOOptimizer
from zo_triton.runlog.contents import Contents
from zo_triton.runlog.weights import check_digest, digest

Replayable: TypeAlias = ZOOptimizer | GradientStep
"""What has an ``apply``; :class:`zo_triton.FusedTrainer` is a :class:`GradientStep`."""

_OWN: dict[str, Any] = {"ZOSGD": ZOSGD, "ZOAdam": ZOAdam}
_TORCHS: dict[str, Any] = {"Adam": Adam, "AdamW": AdamW, "SGD": SGD}
_COUNTING = ("ZOAdam", "Adam", "AdamW")
_FIELD = ("seed", "directions", "compute_dtype", "plan", "distribution")
_OWN_FIELD = (*_FIELD, "rank", "rounds", "low_precision")
_MEASURED = ("eps", "sides", "aggregator")


def named_parameters(target: Replayable) -> dict[str, Tensor]:
    """The trained tensors by name in the order of their ids; unnamed ones are named by their position."""
    if isinstance(target, GradientStep):
        return dict(zip(target.names, target.params, strict=True))
    groups = target.param_groups
    params = [param for group in groups for param in group["params"]]
    names = [name for group in groups for name in group.get("param_names", ())]
    return dict(zip(names or map(str, range(len(params))), params, strict=True))


def settings_of(target: Replayable, compiled: bool = False) -> dict[str, Any]:
    """All that a step's update depends on beside weights, state and coefficients, as JSON can hold it.

    Args:
        target: The optimizer or trainer.
        compiled: The step is a compiled one of :class:`zo_triton.FusedTrainer`.

    Raises:
        TypeError: A number of a torch optimizer is none of Python's, and it may compute with it otherwise.
    """
    optimizer = _optimizer(target)
    # Torch adds an option to the defaults of an optimizer that was copied or loaded, and not to its groups.
    known = [key for key in optimizer.defaults if all(key in group for group in optimizer.param_groups)]
    groups = [{key: _plain(group[key]) for key in known} for group in optimizer.param_groups]
    if isinstance(target, GradientStep):
        for group in optimizer.param_groups:
            _check_numbers(group)
    settings = {name: _plain(getattr(target, name)) for name in _field_of(target)}
    settings["compute_dtype"] = str(target.compute_dtype).removeprefix("torch.")
    return {**settings, "groups": groups, "compiled": compiled}


def take_settings(target: Replayable, settings: Mapping[str, Any]) -> None:
    """Inverse of :func:`settings_of`."""
    settings = {"distribution": "rademacher", **settings}  # a trainer's, before it had a choice
    for name in _field_of(target):
        setattr(target, name, _from_plain(settings[name]))
    target.compute_dtype = getattr(torch, settings["compute_dtype"])
    for group, saved in zip(_optimizer(target).param_groups, settings["groups"], strict=True):
        group.update({key: _from_plain(value) for key, value in saved.items()})


def describe(target: Replayable) -> dict[str, Any]:
    """A log's header.

    Raises:
        TypeError: The optimizer is none that can be made again from its settings, or a setting is a tensor.
        ValueError: It remembers steps that the log would not hold.
    """
    optimizer = _optimizer(target)
    kind = type(optimizer)
    if kind not in (*_OWN.values(), *_TORCHS.values()):
        raise TypeError(f"a log replays {_known()}, got {kind.__name__}.")
    if any(optimizer.state.values()):
        raise ValueError(
            f"the optimizer remembers the {target.steps_done} steps it has done, and a log starts with one that "
            "remembers none; start the log before the first step, or resume the log of those steps."
        )
    params = named_parameters(target)
    return {
        "zo_triton": version("zo_triton"),
        "optimizer": kind.__name__,
        "parameters": [
            {"name": name, "shape": list(param.shape), "dtype": str(param.dtype).removeprefix("torch.")}
            for name, param in params.items()
        ],
        "group_sizes": [len(group["params"]) for group in optimizer.param_groups],
        "first_step": target.steps_done,
        "weights": digest(params),
        "settings": settings_of(target),
        "measured": _measured(target),
    }


def _measured(target: Replayable) -> dict[str, Any]:
    """How the coefficients were found, which a replay need not know: an aggregator of the user's by its name."""
    found = {name: getattr(target, name) for name in _MEASURED if hasattr(target, name)}
    if "aggregator" in found:
        found["aggregator"] = aggregator_name(found["aggregator"])
    return found


def rebuild(header: Mapping[str, Any], weights: Mapping[str, Tensor]) -> Replayable:
    """The optimizer that a header describes, over these tensors, as it was before the first step."""
    params, groups = list(weights.items()), []
    settings = header["settings"]
    for size, saved in zip(header["group_sizes"], settings["groups"], strict=True):
        groups.append({"params": params[:size], **saved})
        params = params[size:]
    kind = header["optimizer"]
    if kind not in (*_OWN, *_TORCHS):
        raise ValueError(f"the log is of an optimizer {kind!r}; this program replays {_known()}.")
    target: Replayable
    if kind in _OWN:
        # Directions that the field can't have are refused here; the rest is taken over below.
        field = {name: settings[name] for name in ("seed", "directions", "distribution", "rank", "rounds")}
        target = _OWN[kind](groups, lr=0.0, **field)
    else:
        optimizer = _TORCHS[kind](groups)
        target = GradientStep(
            list(weights.values()), optimizer, settings["directions"], settings["seed"],
            getattr(torch, settings["compute_dtype"]), list(weights),
        )  # fmt: skip
    take_settings(target, settings)
    target.steps_done = header["first_step"]
    return target


def check_fits(header: Mapping[str, Any], target: Replayable) -> None:
    """Refuses an optimizer that is not built as the header says.

    Raises:
        ValueError: The optimizer's kind, its groups, or a parameter's name, shape or dtype differs.
    """
    optimizer = _optimizer(target)
    own = {
        "optimizer": type(optimizer).__name__,
        "group_sizes": [len(group["params"]) for group in optimizer.param_groups],
        "parameters": [
            {"name": name, "shape": list(param.shape), "dtype": str(param.dtype).removeprefix("torch.")}
            for name, param in named_parameters(target).items()
        ],
    }
    for key, value in own.items():
        if header[key] != value:
            raise ValueError(
                f"the log's {key} is {header[key]}, the optimizer's {value}; build it as it was."
            )


def check_follows(contents: Contents, target: Replayable) -> None:
    """Refuses an optimizer whose weights or state are not those of its step in the log, as far as these tell.

    Raises:
        ValueError: At the log's first step the weights are others; later Adam has counted other steps.
    """
    taken, params = target.steps_done - contents.first_step, named_parameters(target)
    if taken == 0:
        check_digest(params, contents.header["weights"])
    if contents.header["optimizer"] not in _COUNTING:
        return
    state = _optimizer(target).state
    for name, param in params.items():
        counted = int(state.get(param, {}).get("step", 0))
        if counted != taken:
            raise ValueError(
                f"the optimizer's state of {name!r} has counted {counted} steps, and {taken} lead to its step "
                f"{target.steps_done} in the log; load the state of that step (load_state_dict)."
            )


def check_own_step(target: Replayable) -> None:
    """Refuses an optimizer whose step runs code beside its own, of which a log says nothing.

    Raises:
        ValueError: It has a hook, all optimizers have one, or its ``step`` was replaced; or it perturbs
            activations.
    """
    if target.perturb != "weights":
        raise ValueError(
            f"a log holds K numbers a step, and with perturb={target.perturb!r} a step has K for each sample and "
            "needs its inputs to be repeated: keep checkpoints instead, or train with perturb='weights'."
        )
    found = foreign_code.in_optimizer(_optimizer(target))
    if found is None and isinstance(target, GradientStep):
        found = foreign_code.in_trainer(target.step_post_hooks)
    if found is not None:
        raise ValueError(
            f"{found} may change gradients or weights, which no log holds and no replay repeats. Remove it and do "
            "its work between the steps (settings may change there), or train without a log."
        )


def _known() -> str:
    return ", ".join((*(f"zo.{name}" for name in _OWN), *_TORCHS))


def _field_of(target: Replayable) -> tuple[str, ...]:
    return _FIELD if isinstance(target, GradientStep) else _OWN_FIELD


def _optimizer(target: Replayable) -> Optimizer:
    return target.optimizer if isinstance(target, GradientStep) else target


def _check_numbers(group: Mapping[str, Any]) -> None:
    for name, value in group.items():
        if name in ("params", "param_names"):
            continue
        for one in value if isinstance(value, (tuple, list)) else [value]:
            if isinstance(one, Tensor) or (isinstance(one, np.generic) and not isinstance(one, float)):
                raise TypeError(
                    f"the optimizer's {name} is {one!r}, and torch computes otherwise with the number that a log "
                    f"holds; give float({name}) instead."
                )


def _plain(value: Any) -> Any:
    if isinstance(value, (Tensor, np.generic)):
        return value.item()
    return [_plain(one) for one in value] if isinstance(value, (tuple, list)) else value


def _from_plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
