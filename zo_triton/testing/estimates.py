"""The update is what the evaluations say: along their directions, downhill, divided by ε, from one baseline."""

from __future__ import annotations

from math import log

import torch
from torch import Tensor

from zo_triton.testing.errors import ConformanceError, NotApplicable
from zo_triton.testing.observe import NOT_SEEN, first_step, run, split
from zo_triton.testing.problem import make_network
from zo_triton.testing.subject import DEFAULT, Factory, Setting

_INSIDE = 0.7
"""Least share of an update's length in the span of the perturbations. A sign of a Gaussian keeps 0.8 of it."""

_ELEMENTS_A_DIRECTION = 8
"""A span is told from chance in tensors with this many elements a direction: by chance an update has 0.35 in it."""

_DESCENTS, _LEAST_T = 64, 3.0
_EPS_RATIO = 4.0
_ALLOWED_EXPONENT = 0.25
_LEAST_CORRELATION = 0.95


def update_follows_the_evaluations(factory: Factory, setting: Setting = DEFAULT) -> None:
    """In every tensor the update lies in the span of the perturbations that were evaluated.

    Catches an update that replays another noise stream than the perturbation, be it in one tensor only.

    Args:
        factory: Makes the optimizer under test.
        setting: Supplies ε and the learning rate.

    Raises:
        ConformanceError: A tensor moves along something that was never evaluated.
        NotApplicable: There are no perturbations to see, or too many to tell their span from chance.
    """
    params = make_network().params
    told = False
    for seed in range(1, 4):
        step = first_step(factory, setting.lr, setting.eps, seed)
        moved = step.displacements
        if not len(moved):
            raise NotApplicable(NOT_SEEN)
        parts = zip(split(step.update, params), split(moved, params), strict=True)
        for number, (update, directions) in enumerate(parts):
            if len(update) < _ELEMENTS_A_DIRECTION * _rank(directions):
                continue
            told = True
            inside = _share_inside(update, directions)
            if inside < _INSIDE:
                raise ConformanceError(
                    "the update replays another noise than the perturbation",
                    f"in parameter {number}, {100 * inside:.0f} % of its length lies in the span of the "
                    f"{len(moved)} perturbations that were evaluated, at least {100 * _INSIDE:.0f} % should",
                    "Draw the noise of the update by the same routine, seed and order as that of the perturbation; "
                    "one draw more or less in either path shifts all that follow",
                )
    if not told:
        raise NotApplicable(
            f"every tensor has fewer than {_ELEMENTS_A_DIRECTION} elements a direction, so that any update lies "
            "in their span: test with fewer directions"
        )


def _rank(directions: Tensor) -> int:
    return int(torch.linalg.matrix_rank(directions, rtol=1e-3))


def _share_inside(update: Tensor, directions: Tensor) -> float:
    """Length of the projection on the span of the rows, over that of the whole; 1 for an update of nothing."""
    if not update.norm() > 0:
        return 1.0
    basis, sizes, _ = torch.linalg.svd(directions.T, full_matrices=False)
    basis = basis[:, sizes > 1e-3 * sizes[0]]
    return float((basis.T @ update).norm() / update.norm())


def update_descends(factory: Factory, setting: Setting = DEFAULT) -> None:
    """Updates go downhill: their product with the true gradient is negative, step by step.

    What another noise stream in the update comes to where nothing but the update can be seen: measured slopes
    then multiply unrelated directions, uphill as often as down. Also catches a sign.

    Args:
        factory: Makes the optimizer under test.
        setting: Supplies ε and the learning rate.

    Raises:
        ConformanceError: 64 updates do not go downhill by three standard errors.
    """
    steps = run(factory, make_network(), setting.lr, setting.eps, 1, _DESCENTS)
    descents = torch.stack([-(step.update @ step.gradient) for step in steps])
    length = descents.norm()
    t = float(descents.sum() / length) if length > 0 else 0.0
    if t < _LEAST_T:
        raise ConformanceError(
            "updates do not descend",
            f"over {_DESCENTS} steps the loss's slope along the update is negative by {t:.1f} standard errors, at "
            f"least {_LEAST_T:g} should be",
            "Multiply each slope by the very direction it was measured along, and move against it",
        )


def slopes_are_divided_by_eps(factory: Factory, setting: Setting = DEFAULT) -> None:
    """The update does not depend on ε, as the loss is nearly linear over it.

    Catches differences that are multiplied by ε instead of divided (the update then grows with ε²), and a
    missing 1/ε (it grows with ε).

    Args:
        factory: Makes the optimizer under test.
        setting: Supplies the larger ε and the learning rate.

    Raises:
        ConformanceError: The update's length is a power of ε.
    """
    exponents = []
    for seed in range(1, 5):
        large, small = (
            float(first_step(factory, setting.lr, eps, seed).update.norm())
            for eps in (setting.eps, setting.eps / _EPS_RATIO)
        )
        if not (large > 0 and small > 0):
            raise NotApplicable("the weights did not move")
        exponents.append(log(large / small) / log(_EPS_RATIO))
    exponent = sum(exponents) / len(exponents)
    if abs(exponent) > _ALLOWED_EXPONENT:
        defect = (
            "differences are multiplied by ε instead of divided" if exponent > 1.5
            else "the slope lacks its 1/ε" if exponent > 0
            else "the slope is divided by ε too often"
        )  # fmt: skip
        raise ConformanceError(
            defect,
            f"the update's length goes with ε to the power {exponent:.2f}, as ε falls from {setting.eps:g} to "
            f"{setting.eps / _EPS_RATIO:g} on a loss that is nearly linear there; it should not depend on ε",
            "The slope along z is (L(θ+εz) - L(θ))/ε, or (L(θ+εz) - L(θ-εz))/(2ε) with two sides",
        )


def baseline_is_kept(factory: Factory, setting: Setting = DEFAULT) -> None:
    """One-sided slopes are differences from the loss at the weights, for every direction of a step.

    Catches a baseline that is overwritten inside the loop over directions, so that each difference is taken from
    the direction before. The coefficients with which the update weighs its directions are recovered from it, and
    compared with the losses at the evaluations.

    Args:
        factory: Makes the optimizer under test, one that averages or ranks its directions.
        setting: Supplies ε and the learning rate.

    Raises:
        ConformanceError: The coefficients do not follow the losses.
        NotApplicable: There are no one-sided evaluations along two directions or more, or too many to tell.
    """
    problem = make_network()
    steps = run(factory, problem, setting.lr, setting.eps, 1, 12)
    expected, found = [], []
    for step in steps:
        directions = step.displacements
        if len(directions) < 2:
            raise NotApplicable(
                NOT_SEEN if not len(directions) else "a single perturbed evaluation has no baseline to lose"
            )
        if 2 * len(directions) > directions.shape[1] or _rank(directions) < len(directions):
            raise NotApplicable(
                "evaluations come in ± pairs, which need no baseline, or are too many to tell apart"
            )
        coefficients = torch.linalg.lstsq(directions.T, -step.update).solution
        # What the loss changes along each, to first order, needs no second evaluation.
        changes = directions @ step.gradient
        expected.append(_ranks(changes))
        found.append(_ranks(coefficients))
    correlation = float(torch.cat(expected) @ torch.cat(found)) / len(steps)
    if correlation < _LEAST_CORRELATION:
        raise ConformanceError(
            "the baseline is overwritten inside the loop over directions",
            f"the ranks of the directions' weights in the update correlate by {correlation:.2f} with those of the "
            f"loss's changes along them, at least {_LEAST_CORRELATION:g} is expected",
            "Keep the loss at the unperturbed weights in a variable of its own and subtract it from every "
            "perturbed loss",
        )


def _ranks(values: Tensor) -> Tensor:
    """Centred ranks, of length 1: what averaging, normalising and ranking all keep."""
    ranks = values.argsort().argsort().double()
    centred = ranks - ranks.mean()
    return centred / centred.norm()
