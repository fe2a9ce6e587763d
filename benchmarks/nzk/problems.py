"""The paper's data and models as one linear problem each: features, first outputs, targets."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from torch import nn

from benchmarks.nzk.settings import Case, Settings
from benchmarks.race.networks import make_mlp
from zo_triton import nzk
from zo_triton.data import Pair, class_pair_or_digits

TEACHER_WEIGHTS = (1, 9)
"""Range of the synthetic teacher's integer weights θ*."""

NEGLIGIBLE = 1e-7
"""Singular values below this share of the largest count as zero: float32 weights carry no more digits."""


@dataclass(frozen=True, eq=False)
class Problem:
    """A model that is linear in its displacement, f(θ) = f0 + X(θ - θ0), and its targets.

    Args:
        name: Heads the report's part.
        note: What the data are, in words.
        pair: The examples as they can be exported, [n, inputs] and [n].
        features: X, [n, d] float64: the inputs of a linear model, or the Jacobian at θ0.
        outputs: f0, [n] float64.
        targets: y, [n] float64.
        across: [n] what the figures' samples are ordered by, and :attr:`across_label` its name.
        across_label: Axis title.
        warning: What a reader must be told about the data; empty if they are what was asked for.
        model: The real network, None for a linear model.
    """

    name: str
    note: str
    pair: Pair
    features: np.ndarray
    outputs: np.ndarray
    targets: np.ndarray
    across: np.ndarray
    across_label: str
    warning: str = ""
    model: nn.Sequential | None = field(default=None, repr=False)

    @property
    def samples(self) -> int:
        """The number of examples n."""
        return len(self.targets)

    @property
    def size(self) -> int:
        """The number of parameters d."""
        return self.features.shape[1]

    @cached_property
    def ntk(self) -> np.ndarray:
        """XXᵀ, [n, n]."""
        return self.features @ self.features.T

    @cached_property
    def modes(self) -> Modes:
        """The problem in the coordinates in which it is diagonal."""
        left, values, right = np.linalg.svd(self.features, full_matrices=False)
        rank = int((values > NEGLIGIBLE * values[0]).sum())
        residual = self.outputs - self.targets
        start = residual @ left[:, :rank]
        floor = max(float(residual @ residual - start @ start), 0.0) / (2 * self.samples)
        return Modes(values[:rank], start, left[:, :rank], right[:rank], floor, self.samples, self.size)


@dataclass(frozen=True, eq=False)
class Modes:
    """The residual f - y in the features' singular basis, X = U·diag(values)·V.

    Attributes:
        values: [r] singular values.
        start: [r] coordinates Uᵀ(f0 - y).
        left: U, [n, r].
        right: V, [r, d].
        floor: Loss of what no parameter reaches.
        samples: The number of examples n.
        size: The number of parameters d.
    """

    values: np.ndarray
    start: np.ndarray
    left: np.ndarray
    right: np.ndarray
    floor: float
    samples: int
    size: int

    @property
    def rank(self) -> int:
        """The number of modes r."""
        return len(self.values)

    @property
    def curvatures(self) -> np.ndarray:
        """The nonzero eigenvalues of the loss's Hessian, NTK/n."""
        return self.values**2 / self.samples


def make_problem(case: Case, settings: Settings) -> Problem:
    """Builds a case's data and model.

    Raises:
        ValueError: The data set is there but damaged, or a count is out of range.
    """
    if case.kind == "classes":
        return _classes(case, settings)
    inputs, targets, note = sphere(case.inputs, case.samples, case.noise, settings.seed)
    pair = Pair(
        case.name, inputs.astype(np.float32), targets.astype(np.float32), (0, 0), np.arange(len(inputs))
    )
    if case.inputs == 2:
        across, label = np.degrees(np.arctan2(inputs[:, 1], inputs[:, 0])), "angle of the input [degrees]"
    else:
        across, label = np.argsort(np.argsort(targets)).astype(float), "example, in order of its target"
    if case.kind == "linear":
        outputs = np.zeros(len(targets))
        return Problem(case.name, note, pair, inputs, outputs, targets, across, label)
    model = make_mlp((case.inputs, *case.hidden, 1), settings.seed)
    features, outputs = linearise(model, pair.x)
    widths = "-".join(str(width) for width in (case.inputs, *case.hidden, 1))
    note = f"{note} The model is a ReLU network {widths} with biases, linearised at its first weights."
    return Problem(case.name, note, pair, features, outputs, targets, across, label, model=model)


def sphere(inputs: int, samples: int, noise: float, seed: int) -> tuple[np.ndarray, np.ndarray, str]:
    """Points in the positive orthant of the unit sphere, and a noisy linear teacher's targets.

    Args:
        inputs: Coordinates a point.
        samples: How many points.
        noise: Standard deviation of the noise on a target.
        seed: Of points, teacher and noise.

    Returns:
        Points [samples, inputs] and targets [samples], both float64, and a sentence that describes them.
    """
    generator = np.random.default_rng(seed)
    points = generator.uniform(size=(samples, inputs))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    low, high = TEACHER_WEIGHTS
    teacher = generator.integers(low, high + 1, inputs)
    targets = points @ teacher + noise * generator.standard_normal(samples)
    note = (
        f"{samples} points uniform in the positive orthant of {inputs} dimensions, scaled to the unit sphere; "
        f"targets of a linear teacher with integer weights {low} to {high} plus noise of deviation {noise:g}."
    )
    return points, targets, note


def linearise(model: nn.Sequential, inputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Jacobian [n, d] and outputs [n] of a network with one output, both float64."""
    import copy

    exact = copy.deepcopy(model).double()
    found = nzk.linearize(exact, torch.from_numpy(np.asarray(inputs, np.float64)))
    features = np.asarray(found.features, np.float64)
    return features, np.asarray(found.outputs, np.float64).reshape(len(features))


def _classes(case: Case, settings: Settings) -> Problem:
    pair = class_pair_or_digits(
        case.data, case.classes, case.per_class, case.size, settings.resize, settings.seed
    )
    model = make_mlp((case.size**2, *case.hidden, 1), settings.seed)
    features, outputs = linearise(model, pair.x)
    targets = pair.y.astype(np.float64)
    widths = "-".join(str(width) for width in (case.size**2, *case.hidden, 1))
    note = (
        f"{pair.name}: {len(targets)} images, grey, {case.size}×{case.size} ({settings.resize}), targets -1 "
        f"and +1. The model is a ReLU network {widths} with biases, linearised at its first weights."
    )
    # Within a class in order of the first outputs, so that a snapshot is a curve and not a cloud.
    place = np.lexsort((outputs, targets))
    across = np.empty(len(targets))
    across[place] = np.arange(len(targets))
    label = f"image: first class {pair.classes[0]}, then {pair.classes[1]}, by its first output"
    return Problem(
        pair.name, note, pair, features, outputs, targets, across, label, warning=pair.note, model=model
    )
