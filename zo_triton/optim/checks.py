"""What an optimizer refuses beside what a measurement does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from zo_triton import ops
from zo_triton._warn import warn
from zo_triton.difference import Evaluation
from zo_triton.directions import Directions
from zo_triton.optim.aggregators import get_aggregator

LOW_PRECISION = ("master", "stochastic")
PERTURB = ("weights", "activations", "auto")
"""What a step may perturb."""

_OF_OTHER_RULES = ("momentum", "dampening", "nesterov", "betas", "amsgrad", "decoupled_weight_decay")
"""Options of torch's SGD, Adam and AdamW that change their rule."""

_OVERLAPS = 1
"""What torch says of a tensor whose elements certainly share memory."""

LARGEST_SLOPE = 2.0**60
LARGEST_LR = 2.0**40
"""A step along a slope this steep at this rate is far from float32's range: weights can't silently overflow."""

_told = WeakTensorKeyDictionary()
"""Frozen tensors that a warning has named."""


def warn_of_frozen(params: Sequence[Tensor]) -> None:
    """Warns once if some of the tensors to be trained are frozen and others are not.

    Without autograd ``requires_grad`` has no effect. Where no tensor has it, none is meant; where some do, as with
    adapters in a frozen model, all of ``model.parameters()`` was probably passed by mistake.
    """
    frozen = [param for param in params if not param.requires_grad]
    if not frozen or len(frozen) == len(params) or frozen[0] in _told:
        return
    _told[frozen[0]] = True
    warn(
        f"{len(frozen)} of the {len(params)} tensors to be trained have requires_grad=False and will move all the "
        "same: no autograd takes part. To leave them as they are, pass [p for p in model.parameters() if "
        "p.requires_grad].",
        UserWarning,
    )


def check_movable(param: Tensor, remembered: Mapping[str, Any]) -> None:
    """Refuses a parameter that no step can move, before another one has been moved.

    Args:
        param: The parameter.
        remembered: What the optimizer keeps of it, tensors of its shape.

    Raises:
        ValueError: It was made in inference mode and this is not, its elements share memory, or what is remembered
            has another shape.
    """
    if param.is_inference() and not torch.is_inference_mode_enabled():
        raise ValueError(
            f"a tensor of shape {tuple(param.shape)} was made in torch.inference_mode and can't be written to "
            "outside of it; make the model outside, or train a .clone() of it."
        )
    if torch._debug_has_internal_overlap(param) == _OVERLAPS:
        raise ValueError(
            f"elements of a tensor of shape {tuple(param.shape)} and strides {param.stride()} share memory, as "
            ".expand() makes them, and can't be moved apart; pass what was expanded, or a .clone()."
        )
    check_remembered(param, remembered)


def check_remembered(param: Tensor, remembered: Mapping[str, Any]) -> None:
    """Refuses what an optimizer keeps of a parameter if it has another shape.

    Raises:
        ValueError: It has.
    """
    for name, value in remembered.items():
        if isinstance(value, Tensor) and value.shape != param.shape:
            raise ValueError(
                f"the optimizer remembers a {name} of shape {tuple(value.shape)} for a parameter of shape "
                f"{tuple(param.shape)}; load the state of a run over these parameters, or make a new optimizer."
            )


def check_low_precision(choice: str) -> None:
    """Refuses a way of updating low-precision weights that there is not.

    Raises:
        ValueError: ``choice`` is not in :data:`LOW_PRECISION`.
    """
    if choice not in LOW_PRECISION:
        raise ValueError(
            f"low_precision must be one of {LOW_PRECISION}, got {choice!r}: a float32 copy, or stochastic rounding."
        )


def default_distribution(perturb: str) -> str:
    """What is drawn by default: orthogonal signs for activations, independent ones for weights."""
    return "rademacher" if perturb == "weights" else "hadamard"


def check_perturb(perturb: Any, distribution: str, rank: int | None, aggregator: Any = "average") -> None:
    """Refuses what can't be perturbed together.

    Raises:
        ValueError: There is no such choice, or noise on layers' outputs does not go with another setting.
    """
    if perturb not in PERTURB:
        raise ValueError(f"perturb must be one of {PERTURB}, got {perturb!r}.")
    if perturb == "weights":
        return
    if distribution not in ops.NODE_DISTRIBUTIONS:
        raise ValueError(
            f"perturb={perturb!r} draws signs, one of {ops.NODE_DISTRIBUTIONS}, got distribution={distribution!r}; "
            "choose 'hadamard'."
        )
    if rank is not None:
        raise ValueError(
            f"perturb={perturb!r} can't have low-rank directions, got rank={rank}: a layer's output is no product "
            "of two factors; leave rank out, or use perturb='weights'."
        )
    if aggregator != "average":
        raise ValueError(
            f"perturb={perturb!r} averages each sample's slopes, got aggregator={aggregator!r}; use 'average', or "
            "perturb='weights'."
        )


def check_along_directions(perturb: str) -> None:
    """Refuses coefficients of directions where activations are perturbed.

    Raises:
        ValueError: They are.
    """
    if perturb != "weights":
        raise ValueError(
            f"with perturb={perturb!r} a step has K numbers for each sample, and no K coefficients make it: take "
            "measure(closure) and step(), or perturb='weights'."
        )


def check_coefficients(coefficients: Tensor, directions: Directions, finite: bool = False) -> None:
    """Refuses what can't be the coefficients of these directions.

    Args:
        coefficients: What was given.
        directions: What they belong to.
        finite: They are known to be finite, and need not be read from their device.

    Raises:
        TypeError: They are no float32 tensor.
        ValueError: There are not K of them, or one is not finite.
    """
    if not isinstance(coefficients, Tensor) or coefficients.dtype != torch.float32:
        raise TypeError(
            f"coefficients must be a float32 tensor, got {getattr(coefficients, 'dtype', type(coefficients))}; "
            "call .float()."
        )
    if coefficients.shape != (directions.num,):
        raise ValueError(
            f"expected {directions.num} coefficients, one a direction, got shape {tuple(coefficients.shape)}."
        )
    if not finite and not bool(coefficients.isfinite().all()):
        raise ValueError("a coefficient is NaN or infinite; leave that direction out by a coefficient of 0.")


def check_settings(settings: Mapping[str, Any]) -> None:
    """Refuses settings that no step can be made with.

    Args:
        settings: Those of an optimizer beside its groups', by name.

    Raises:
        TypeError: One has the wrong type.
        ValueError: One is out of range.
    """
    Directions(
        settings["seed"],
        settings["steps_done"],
        settings["directions"],
        settings["distribution"],
        settings["rounds"],
        settings["rank"],
    )
    Evaluation(settings["eps"], settings["sides"], settings["compute_dtype"], settings["chunk"])
    get_aggregator(settings["aggregator"])
    check_low_precision(settings["low_precision"])
    check_perturb(settings["perturb"], settings["distribution"], settings["rank"], settings["aggregator"])


def check_options(group: Mapping[str, Any], known: Mapping[str, Any], settings: Sequence[str]) -> None:
    """Refuses what a parameter group asks for and would not get; what nobody knows, a name say, it may hold.

    Args:
        group: As it was given.
        known: The options that groups have.
        settings: Names of what is the optimizer's as a whole.

    Raises:
        ValueError: An option would have no effect.
    """
    for name, value in group.items():
        if name in known:
            continue
        if name in settings:
            raise ValueError(
                f"{name}={value!r} would have no effect in a parameter group: all groups share a step's measuring; "
                "give it to the optimizer."
            )
        if name == "adam_eps":
            raise ValueError(
                f"adam_eps={value!r} would have no effect in a parameter group, where it is called 'eps'."
            )
        if name in _OF_OTHER_RULES and value:
            raise ValueError(
                f"{name}={value!r} would have no effect: the groups' options here are {', '.join(known)}; for "
                "another rule take zo.estimate_gradient and that torch optimizer."
            )


def check_sgd_group(group: Mapping[str, Any]) -> None:
    """Refuses a parameter group's options of SGD.

    Raises:
        ValueError: One is out of range.
    """
    _check_rates(group)
    if not 0 <= group["momentum"] < 1:
        raise ValueError(f"momentum must be in [0, 1), got {group['momentum']}.")


def check_adam_group(group: Mapping[str, Any]) -> None:
    """Refuses a parameter group's options of Adam.

    Raises:
        ValueError: One is out of range.
    """
    _check_rates(group)
    betas = group["betas"]
    if not isinstance(betas, Sequence) or len(betas) != 2 or any(not 0 <= beta < 1 for beta in betas):
        raise ValueError(f"betas must be two numbers in [0, 1), got {betas!r}.")
    if not group["eps"] >= 0 or not isfinite(group["eps"]):
        raise ValueError(f"adam_eps must be finite and not negative, got {group['eps']}.")


def _check_rates(group: Mapping[str, Any]) -> None:
    lr, decay = group["lr"], group["weight_decay"]
    if not lr >= 0 or not isfinite(lr):
        raise ValueError(f"lr must be finite and not negative, got {lr}.")
    if lr > LARGEST_LR:
        raise ValueError(f"lr must be at most 2**40, got {lr}: such a step leaves the range of float32.")
    if not decay >= 0 or not isfinite(decay):
        raise ValueError(f"weight_decay must be finite and not negative, got {decay}.")
