"""In low precision neither perturbations nor updates are lost in silence."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from zo_triton.testing.errors import ConformanceError, NotApplicable
from zo_triton.testing.observe import NOT_SEEN, run
from zo_triton.testing.problem import make_linear
from zo_triton.testing.subject import DEFAULT, Factory, Setting

DTYPES = (torch.bfloat16, torch.float16)
_SHAPE = 32, 16
_EPS_OF_A_SPACING = 0.125
_LEAST_SHARE = 0.5
_BASE_SHARE = 1e-2
"""An evaluation displaced less than this share of the largest is one of the base."""

_STEPS = 100
_TRAVEL_IN_SPACINGS = 1.5
_MOST_STEP_IN_SPACINGS = 0.125
"""Of an element's root mean square update: four standard deviations are then half a spacing, and rounded away."""

_PERTURBATION_REMEDY = (
    "Move a float32 copy of the weights and compute the loss from it, carry differences instead of moved weights, "
    "round stochastically, or warn that ε is too small"
)
_UPDATE_REMEDY = (
    "Keep a float32 master copy in which updates add up and copy it to the weights, round stochastically, or warn "
    "that updates are lost"
)


def low_precision_perturbations_survive(factory: Factory, setting: Setting = DEFAULT) -> None:
    """An ε below the spacing of bfloat16 or float16 weights still moves them, or the user is warned.

    Args:
        factory: Makes the optimizer under test; called with an ε of an eighth of the weights' spacing and lr=0.
        setting: Unused.

    Raises:
        ConformanceError: Most of the perturbation is rounded away and nothing was said.
        NotApplicable: The optimizer refuses both dtypes, or shows no perturbations.
    """
    seen = False
    refused: NotApplicable | None = None
    for dtype in DTYPES:
        eps = _EPS_OF_A_SPACING * torch.finfo(dtype).eps
        try:
            full, _ = _evaluations(factory, torch.float32, eps)
            low, told = _evaluations(factory, dtype, eps)
        except NotApplicable as error:
            refused = error
            continue
        perturbed = full > _BASE_SHARE * full.max() if len(full) else full.bool()
        if not perturbed.any() or len(low) != len(full):
            raise NotApplicable(NOT_SEEN)
        wanted, found = float(full[perturbed].min()), float(low[perturbed].min())
        seen = True
        if found < _LEAST_SHARE * wanted and not told:
            raise ConformanceError(
                f"{_name(dtype)} weights swallow the perturbation",
                f"at ε={eps:.2g}, an eighth of their spacing, they moved by {found:.2g} (root mean square) at an "
                f"evaluation and float32 weights by {wanted:.2g}; at least half is expected, or a warning",
                _PERTURBATION_REMEDY,
            )
    if not seen and refused is not None:
        raise refused


def _evaluations(factory: Factory, dtype: torch.dtype, eps: float) -> tuple[Tensor, bool]:
    """Root mean square displacement at each evaluation of a step, [n], and whether a warning was given."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        (step,) = run(factory, make_linear(*_SHAPE, dtype), 0.0, eps, 1, 1)
    return (step.evaluated - step.before).square().mean(1).sqrt(), bool(told)


def low_precision_updates_survive(factory: Factory, setting: Setting = DEFAULT) -> None:
    """Updates far below the spacing of bfloat16 or float16 weights add up, or the user is warned.

    The learning rate is set so that 100 steps move float32 weights by one and a half spacings, each of them by
    an eighth at most; the same number of steps must take low-precision weights half as far.

    Args:
        factory: Makes the optimizer under test.
        setting: Supplies the learning rate of the trial from which that one is computed.

    Raises:
        ConformanceError: The updates are lost and nothing was said.
        NotApplicable: The optimizer refuses both dtypes.
    """
    refused: NotApplicable | None = None
    seen = False
    for dtype in DTYPES:
        spacing = torch.finfo(dtype).eps
        eps = 8 * spacing
        trial = run(factory, make_linear(*_SHAPE), setting.lr, eps, 1, _STEPS)
        travelled = _rms(trial[-1].after - trial[0].before)
        if not travelled > 0:
            raise NotApplicable("the weights did not move")
        largest = max(_rms(step.update) for step in trial)
        scale = min(_TRAVEL_IN_SPACINGS / travelled, _MOST_STEP_IN_SPACINGS / largest) * spacing
        try:
            with warnings.catch_warnings(record=True) as told:
                warnings.simplefilter("always")
                moved, still = (
                    run(factory, make_linear(*_SHAPE, dtype), lr, eps, 1, _STEPS)[-1].after
                    for lr in (setting.lr * scale, 0.0)
                )
        except NotApplicable as error:
            refused = error
            continue
        seen = True
        # What a restore by adding the noise back makes of the weights is not the update's.
        wanted, found = scale * travelled, _rms(moved - still)
        if found < _LEAST_SHARE * wanted and not told:
            raise ConformanceError(
                f"{_name(dtype)} weights swallow the update",
                f"{_STEPS} steps of {scale * largest / spacing:.2g} spacings or less moved them by "
                f"{found:.2g} (root "
                f"mean square), where float32 weights travel {wanted:.2g}; at least half is expected, or a warning",
                _UPDATE_REMEDY,
            )
    if not seen and refused is not None:
        raise refused


def _rms(vector: Tensor) -> float:
    return float(vector.square().mean().sqrt())


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
