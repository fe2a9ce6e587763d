"""A step that may not move leaves the weights as they were, and each direction starts from them."""

from __future__ import annotations

import warnings

import torch

from zo_triton.testing.errors import ConformanceError, NotApplicable
from zo_triton.testing.observe import NOT_SEEN, run
from zo_triton.testing.problem import make_linear, make_network
from zo_triton.testing.subject import DEFAULT, Factory, Setting

_STEPS = 16
_LOW_STEPS = 50
_LOW_EPS = 0.0625
"""Eight times bfloat16's spacing at 1: the perturbations arrive, whatever happens to them later."""

_ALLOWED_DRIFT = 1e-2
_FRESH, _SAME = 0.35, 0.97
"""Cosines of two directions: below the first they are independent (8 standard deviations), above the second one."""


def weights_are_restored(factory: Factory, setting: Setting = DEFAULT) -> None:
    """With a learning rate of 0 the weights stay: nothing of the perturbations is left in them.

    Catches weights that are "restored" from a state dict which shares their memory: they walk at random. Sixteen
    steps may move them by a hundredth of ε, which is more than rounding in float32 makes of adding noise and
    subtracting it again.

    Args:
        factory: Makes the optimizer under test; called with lr=0.
        setting: Supplies ε.

    Raises:
        ConformanceError: The weights have moved.
        NotApplicable: The optimizer refuses lr=0.
    """
    steps = run(factory, make_network(), 0.0, setting.eps, 1, _STEPS)
    drift = float((steps[-1].after - steps[0].before).square().mean().sqrt())
    if drift > _ALLOWED_DRIFT * setting.eps:
        raise ConformanceError(
            "the weights are not restored after the perturbations",
            f"with lr=0 they drifted by {drift / setting.eps:.2g} ε (root mean square) in {_STEPS} steps, allowed "
            f"is {_ALLOWED_DRIFT:g} ε",
            "Copy the weights before the first perturbation and copy them back after the last evaluation; a state "
            "dict is no copy, its tensors are the live ones: clone each",
        )


def perturbations_do_not_accumulate(factory: Factory, setting: Setting = DEFAULT) -> None:
    """Every evaluation of a step is at the weights plus one direction's perturbation.

    Catches a restore that does nothing between two directions, even if the step puts the weights right at its
    end: the second evaluation then still carries the first one's noise, and has a third of its variance or more
    in common with it.

    Args:
        factory: Makes the optimizer under test; called with lr=0.
        setting: Supplies ε.

    Raises:
        ConformanceError: Two evaluations of a step share a part of their displacement.
        NotApplicable: There are no two displaced evaluations in a step.
    """
    for step in run(factory, make_network(), 0.0, setting.eps, 1, 4):
        moved = step.displacements
        if len(moved) < 2:
            raise NotApplicable(
                NOT_SEEN
                if not len(moved)
                else "a step has a single perturbed evaluation, nothing can add up in it"
            )
        unit = moved / moved.norm(dim=1, keepdim=True)
        cosines = (unit @ unit.T).triu(1).abs()
        shared = cosines[(cosines > _FRESH) & (cosines < _SAME)]
        if len(shared):
            raise ConformanceError(
                "perturbations add up from one direction to the next",
                f"{len(shared)} pairs of the {len(moved)} perturbed evaluations of a step are neither independent "
                f"nor opposite, with cosines up to {float(shared.max()):.2f}",
                "Put the unperturbed weights back before each direction, from a copy that shares no "
                "memory with them",
            )


def low_precision_weights_are_restored(factory: Factory, setting: Setting = DEFAULT) -> None:
    """The same for bfloat16 and float16 weights, bit for bit: adding the noise back does not restore those.

    Args:
        factory: Makes the optimizer under test; called with lr=0 on a bfloat16 and on a float16 tensor.
        setting: Unused: ε is above the spacing of the weights here.

    Raises:
        ConformanceError: A weight has changed.
        NotApplicable: The optimizer refuses both dtypes, or lr=0.
    """
    refused = None
    for dtype in (torch.bfloat16, torch.float16):
        problem = make_linear(64, 32, dtype)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # what is said about low precision is for other properties
                steps = run(factory, problem, 0.0, _LOW_EPS, 1, _LOW_STEPS)
        except NotApplicable as error:
            if refused is not None:
                raise
            refused = error
            continue
        start, end = steps[0].before, steps[-1].after
        changed = float((start != end).double().mean())
        if changed:
            drift = float((end - start).norm() / start.norm())
            raise ConformanceError(
                f"weights in {str(dtype).removeprefix('torch.')} drift with every perturbation",
                f"with lr=0, {_LOW_STEPS} steps changed {100 * changed:.3g} % of them, by {100 * drift:.2g} % of "
                "their root mean square; allowed is none",
                "Copy the weights back from a saved copy: in low precision, adding the noise and subtracting it "
                "rounds twice and does not come back",
            )
