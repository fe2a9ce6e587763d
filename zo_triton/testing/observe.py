"""Runs steps of an optimizer under test and tells what could be seen from outside."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from zo_triton.testing.errors import ConformanceError, NotApplicable
from zo_triton.testing.problem import Closure, Problem, flat, make_network
from zo_triton.testing.subject import Factory, Optimizer

NOT_SEEN = (
    "the closure was never evaluated on moved weights, so there are no perturbations to look at: give the "
    "optimizer a black box, if it knows any"
)
_NOISE_SHARE = 1e-2
"""A displacement below this share of the largest is rounding, and the evaluation one of the base."""


@dataclass(frozen=True)
class Step:
    """One step as seen from outside.

    Attributes:
        before: The weights before it, float64 [d].
        after: The weights after it, float64 [d].
        evaluated: The weights at each evaluation, float64 [evaluations, d].
        gradient: The true gradient before it, float64 [d].
    """

    before: Tensor
    after: Tensor
    evaluated: Tensor
    gradient: Tensor

    @property
    def update(self) -> Tensor:
        """How the weights moved, float64 [d]."""
        return self.after - self.before

    @property
    def displacements(self) -> Tensor:
        """Of the evaluations that were not at the base: from the weights before, float64 [moved, d]."""
        moved = self.evaluated - self.before
        lengths = moved.norm(dim=1)
        largest = float(lengths.max()) if len(lengths) else 0.0
        return moved[lengths > _NOISE_SHARE * largest] if largest else moved[:0]

    @property
    def noise(self) -> Tensor:
        """Something that is as random as the step's directions, float64 [d], of length 1.

        The first displacement; where none was seen, the update without its share along the gradient, which all
        updates have in common.
        """
        seen = self.displacements
        if len(seen):
            return seen[0] / seen[0].norm()
        along = self.gradient / self.gradient.norm()
        rest = self.update - (self.update @ along) * along
        length = rest.norm()
        if not length > 0:
            raise NotApplicable("the weights did not move, and the closure saw no moved weights either")
        return rest / length


def agreement(one: Step, other: Step) -> float:
    """Least cosine between what two steps walked: of all displacements in turn, or else of their noises."""
    first, second = one.displacements, other.displacements
    if not len(first) or len(first) != len(second):
        return cosine(one.noise, other.noise)
    return float(torch.cosine_similarity(first, second).min())


def build(factory: Factory, params: Sequence[Tensor], lr: float, eps: float, seed: int) -> Optimizer:
    """The optimizer under test.

    Raises:
        NotApplicable: It refuses the arguments.
    """
    try:
        return factory(params, lr, eps, seed)
    except (TypeError, ValueError) as error:
        raise NotApplicable(f"the optimizer refuses lr={lr:g}, eps={eps:g}, seed={seed}: {error}") from error


def run(factory: Factory, problem: Problem, lr: float, eps: float, seed: int, steps: int) -> list[Step]:
    """Makes an optimizer and lets it take steps.

    Args:
        factory: Makes it.
        problem: Its model is trained in place.
        lr: Learning rate.
        eps: Smoothing radius ε.
        seed: Of the noise.
        steps: How many.

    Returns:
        What was seen of each, all of it finite.

    Raises:
        ConformanceError: The weights, at an evaluation or after a step, are not finite.
        NotApplicable: The optimizer refuses the arguments.
    """
    optimizer = build(factory, problem.params, lr, eps, seed)
    seen = []
    for number in range(steps):
        gradient, before, closure = flat(problem.gradients()), flat(problem.params), Closure(problem)
        optimizer.step(closure)
        evaluated = torch.stack(closure.seen) if closure.seen else before.new_empty(0, len(before))
        check_finite(evaluated, f"at the evaluations of step {number}")
        after = check_finite(flat(problem.params), f"after step {number}")
        seen.append(Step(before, after, evaluated, gradient))
    return seen


def check_finite(weights: Tensor, when: str) -> Tensor:
    """Refuses NaN and infinite weights, about which no comparison would tell anything.

    Args:
        weights: As they were seen, of any shape.
        when: Where the optimizer stood then.

    Returns:
        The same weights.

    Raises:
        ConformanceError: One is not finite.
    """
    finite = weights.isfinite()
    if not finite.all():
        raise ConformanceError(
            "weights are not finite",
            f"{when}, {int((~finite).sum())} of {finite.numel()} are NaN or infinite, none should be",
            "Check the loss and its differences before anything is moved by them; if steps are only too long, "
            "lower the setting's lr",
        )
    return weights


def first_step(factory: Factory, lr: float, eps: float, seed: int) -> Step:
    """The first step on a fresh network."""
    return run(factory, make_network(), lr, eps, seed, 1)[0]


def split(vector: Tensor, params: Sequence[Tensor]) -> list[Tensor]:
    """Each parameter's share of a vector [..., d]."""
    return list(vector.split([param.numel() for param in params], dim=-1))


def cosine(one: Tensor, other: Tensor) -> float:
    """Of the angle between two vectors; 0 where one of them is nothing."""
    lengths = float(one.norm() * other.norm())
    return float(one @ other) / lengths if lengths else 0.0


@contextmanager
def global_seeds(seed: int) -> Iterator[None]:
    """Puts the global generators of Python, NumPy and torch at a seed, and back where they were afterwards."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        with torch.random.fork_rng():
            random.seed(seed)
            np.random.seed(seed)  # noqa: NPY002
            torch.manual_seed(seed)
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
