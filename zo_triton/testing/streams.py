"""Noise is fresh where it must be and the same where it must be: tensors, directions, steps, seeds, runs."""

from __future__ import annotations

from itertools import combinations

import torch
from torch import Tensor

from zo_triton.testing.errors import ConformanceError, NotApplicable
from zo_triton.testing.observe import NOT_SEEN, agreement, cosine, first_step, global_seeds, run, split
from zo_triton.testing.problem import make_network
from zo_triton.testing.subject import DEFAULT, Factory, Setting

_FRESH = 0.25
"""Largest cosine of two independent noises: 8 standard deviations for 1 200 elements, 5 for the smallest pool."""

_SAME = 0.999
_STEPS = 40
_OTHER_SEEDS = (1, 42, 123, 1234, 2**31 - 1, 2**32 - 1)
"""What programs put in the place of a seed that they take for missing."""


def tensors_get_different_noise(factory: Factory, setting: Setting = DEFAULT) -> None:
    """Two tensors of one model never share their noise, nor the beginning of it.

    Args:
        factory: Makes the optimizer under test.
        setting: Supplies ε and the learning rate.

    Raises:
        ConformanceError: The noise of two tensors correlates.
    """
    params = make_network().params
    noises = [step.noise for step in run(factory, make_network(), setting.lr, setting.eps, 1, 16)]
    shares = [torch.stack(parts) for parts in zip(*(split(noise, params) for noise in noises), strict=True)]
    for (one, first), (other, second) in combinations(enumerate(shares), 2):
        length = min(first.shape[1], second.shape[1])
        found = cosine(first[:, :length].flatten(), second[:, :length].flatten())
        if abs(found) > _FRESH:
            raise ConformanceError(
                "several layers get the same noise",
                f"the noise of parameters {one} and {other} has a cosine of {found:.2f} over "
                f"{16 * length} elements, "
                f"at most {_FRESH:g} is chance",
                "Let the tensor's place in the model enter the generator's key or counter, or draw all tensors one "
                "after the other from one stream without seeding it again",
            )


def directions_differ(factory: Factory, setting: Setting = DEFAULT) -> None:
    """A step never evaluates one direction twice.

    Args:
        factory: Makes the optimizer under test; called with lr=0.
        setting: Supplies ε.

    Raises:
        ConformanceError: Two perturbations of a step are the same.
        NotApplicable: There are no two perturbations of a step to compare.
    """
    moved = first_step(factory, 0.0, setting.eps, 1).displacements
    if len(moved) < 2:
        raise NotApplicable(NOT_SEEN if not len(moved) else "a step walks a single direction, one way")
    unit = moved / moved.norm(dim=1, keepdim=True)
    same = int(((unit @ unit.T).triu(1) > _SAME).sum())
    if same:
        raise ConformanceError(
            "the directions of a step are the same",
            f"{same} pairs of its {len(moved)} perturbed evaluations are at the same weights, none should be",
            "Let the direction's number enter the generator's key or counter",
        )


def steps_draw_fresh_noise(factory: Factory, setting: Setting = DEFAULT) -> None:
    """No two of 40 steps walk the same directions: not each step, and not each epoch again.

    Args:
        factory: Makes the optimizer under test.
        setting: Supplies ε and the learning rate.

    Raises:
        ConformanceError: Two steps' noise correlates.
    """
    noises = torch.stack([s.noise for s in run(factory, make_network(), setting.lr, setting.eps, 1, _STEPS)])
    repeated = ((noises @ noises.T).triu(1).abs() > _FRESH).nonzero()
    if len(repeated):
        one, other = repeated[0].tolist()
        raise ConformanceError(
            "noise comes again in later steps",
            f"{len(repeated)} pairs of {_STEPS} steps walk correlated directions, first steps {one} "
            f"and {other} with a "
            f"cosine of {float(noises[one] @ noises[other]):.2f}; at most {_FRESH:g} is chance",
            "Let a count of all steps enter the generator's key or counter, and never seed it again with the same "
            "number, not at the start of an epoch either",
        )


def seeds_do_not_collide(factory: Factory, setting: Setting = DEFAULT) -> None:
    """Neighbouring (seed, step) pairs give different noise: step 0 of seed 17 is not step 1 of seed 16.

    Args:
        factory: Makes the optimizer under test.
        setting: Supplies ε and the learning rate.

    Raises:
        ConformanceError: Two pairs of a seed and a step give correlated noise.
    """
    noises: dict[tuple[int, int], Tensor] = {}
    for seed in range(16, 20):
        for number, step in enumerate(run(factory, make_network(), setting.lr, setting.eps, seed, 6)):
            noises[seed, number] = step.noise
    for (one, first), (other, second) in combinations(noises.items(), 2):
        found = float(first @ second)
        if one[0] != other[0] and abs(found) > _FRESH:
            raise ConformanceError(
                "seeds collide",
                f"(seed, step) = {one} and {other} walk directions with a cosine of {found:.2f}, at "
                f"most {_FRESH:g} is "
                "chance",
                "Do not add seed and step, nor multiply them by small numbers: give each a word of its own in the "
                "counter of a counter-based generator, or hash the pair",
            )


def seed_zero_is_a_seed(factory: Factory, setting: Setting = DEFAULT) -> None:
    """Seed 0 gives the same noise in every run, and no other seed's.

    Args:
        factory: Makes the optimizer under test.
        setting: Supplies ε and the learning rate.

    Raises:
        ConformanceError: Two runs with seed 0 differ, or another seed gives the same noise.
    """
    remedy = (
        "Compare the seed with None: zero is false, so that `seed or default` and `if seed:` both lose it"
    )
    first, second = _noise_under(factory, setting, 0, 1), _noise_under(factory, setting, 0, 2)
    again = float(first @ second)
    if again < _SAME:
        raise ConformanceError(
            "seed 0 is treated as no seed",
            f"two runs with seed 0 walk directions with a cosine of {again:.2f}, it should be 1",
            remedy,
        )
    for seed in _OTHER_SEEDS:
        found = float(first @ _noise_under(factory, setting, seed, 1))
        if abs(found) > _FRESH:
            raise ConformanceError(
                "seed 0 is treated as no seed",
                f"seed 0 walks the directions of seed {seed}: their cosine is {found:.2f}",
                remedy,
            )


def runs_repeat(factory: Factory, setting: Setting = DEFAULT) -> None:
    """A run is told by its seed: whatever the global generators held, its updates are the same.

    Args:
        factory: Makes the optimizer under test.
        setting: Supplies ε and the learning rate.

    Raises:
        ConformanceError: Two runs with one seed differ by more than rounding.
    """
    runs = []
    for global_seed in (1, 2):
        with global_seeds(global_seed):
            runs.append(run(factory, make_network(), setting.lr, setting.eps, 7, 3))
    for number, (one, other) in enumerate(zip(*runs, strict=True)):
        found = agreement(one, other)
        if found < _SAME:
            raise ConformanceError(
                "a run does not repeat",
                f"in step {number} two runs with seed 7 walk directions with a cosine of {found:.2f}, "
                "it should be 1",
                "Draw noise from a generator of your own that the seed alone starts, not from a global one",
            )


def _noise_under(factory: Factory, setting: Setting, seed: int, global_seed: int) -> Tensor:
    """The first step's noise, with the global generators at a seed."""
    with global_seeds(global_seed):
        return first_step(factory, setting.lr, setting.eps, seed).noise
