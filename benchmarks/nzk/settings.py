"""What the paper's seven experiments are made of: plain data, the paper's own values as defaults.

Source: arXiv 2603.21169. Where it leaves a choice open, the docstring of the field says what was chosen.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import sqrt
from typing import Any

from benchmarks.named import Named


@dataclass(frozen=True)
class Noise:
    """The distribution of a direction's coordinates: symmetric, mean zero.

    Args:
        label: How reports call it.
        family: ``normal``, ``t`` or ``laplace``.
        parameter: Standard deviation of the normal, degrees of freedom of t, scale of the Laplace.
    """

    label: str
    family: str = "normal"
    parameter: float = 1.0

    @property
    def field(self) -> str | None:
        """The field's distribution of which this is a multiple; None where the field has none."""
        return {"normal": "gaussian", "laplace": "laplace"}.get(self.family)

    @property
    def scale(self) -> float:
        """Standard deviation, and so the factor on the field's values, whose variance is 1."""
        nu = self.parameter
        return {"normal": nu, "laplace": sqrt(2.0) * nu, "t": sqrt(nu / (nu - 2)) if nu > 2 else 0.0}[
            self.family
        ]

    def law(self) -> Any:
        """What the functions of ``zo_triton.nzk`` take: the field's name, or a frozen scipy distribution."""
        if self.family == "normal" and self.parameter == 1.0:
            return "gaussian"
        from scipy import stats

        if self.family == "t":
            return stats.t(self.parameter)
        return (stats.norm if self.family == "normal" else stats.laplace)(scale=self.parameter)


GAUSSIAN = Noise("normal(1)")


@dataclass(frozen=True)
class Case:
    """One data set with one distribution.

    Args:
        name: Heads the case's part of the report.
        kind: ``linear`` (features are the inputs), ``network`` (a linearised MLP on sphere data) or
            ``classes`` (a linearised MLP on two classes of images).
        inputs: Features of the synthetic points; the paper's d.
        samples: How many synthetic points; images come as ``per_class`` a class.
        noise: Standard deviation of the synthetic targets' noise.
        distribution: Of the directions' coordinates.
        hidden: Widths of the hidden layers.
        data: Name of the image data set.
        classes: The two labels.
        per_class: Images a class.
        size: Pixels a side after scaling.
    """

    name: str
    kind: str = "linear"
    inputs: int = 2
    samples: int = 100
    noise: float = 0.05
    distribution: Noise = GAUSSIAN
    hidden: tuple[int, ...] = ()
    data: str = ""
    classes: tuple[int, int] = (0, 1)
    per_class: int = 100
    size: int = 8


@dataclass(frozen=True)
class Settings:
    """One experiment.

    Args:
        name: As on the command line.
        title: Of the report.
        cases: What is run.
        steps: Of every curve.
        lr: η of first order and zeroth order alike.
        draws: Of the empirical kernels.
        directions: K averaged in a kernel; the paper's kernels have one.
        network_directions: Directions a step of the run on the real network.
        eps: ε of that run.
        seed: Of points, weights, pictures and directions.
        run_values: Runs × rank of an ensemble: how many runs it has follows from it.
        regression_draws: Of the regression that measures the acceleration.
        resize: How pictures are scaled, ``bilinear`` as in the paper's scripts, or ``area``.
        tiny: Sizes for a test of the plumbing; the numbers mean nothing.
    """

    name: str
    title: str
    cases: tuple[Case, ...]
    steps: int = 16_000
    lr: float = 1e-3
    draws: int = 10_000
    directions: int = 1
    network_directions: int = 100
    eps: float = 1e-3
    seed: int = 0
    run_values: int = 6_400
    regression_draws: int = 400_000
    resize: str = "bilinear"
    tiny: bool = False


def _synthetic(label: str, distribution: Noise) -> Case:
    return Case(label, noise=0.02, distribution=distribution)


def _pictures(data: str, label: str, classes: tuple[int, int]) -> tuple[Case, ...]:
    return (Case(label, kind="classes", hidden=(10, 5), data=data, classes=classes),)


_EXPERIMENTS = (
    Settings(
        "linear",
        "Linear model on the sphere",
        (Case("d = 2", inputs=2), Case("d = 50", inputs=50)),
    ),
    Settings(
        "distributions",
        "Five distributions of the directions",
        (
            _synthetic("normal(1)", Noise("normal(1)")),
            _synthetic("t(10)", Noise("t(10)", "t", 10)),
            _synthetic("t(1000)", Noise("t(1000)", "t", 1000)),
            _synthetic("Laplace(0.5)", Noise("Laplace(0.5)", "laplace", 0.5)),
            _synthetic("Laplace(0.605)", Noise("Laplace(0.605)", "laplace", 0.605)),
        ),
    ),
    Settings(
        "variances",
        "Three scales of the directions",
        tuple(
            _synthetic(f"normal({scale:g})", Noise(f"normal({scale:g})", "normal", scale))
            for scale in (0.5, 1.0, 1.5)
        ),
    ),
    Settings(
        "network",
        "A small network on the sphere, linearised",
        (Case("MLP 2-5-5-1", kind="network", hidden=(5, 5)),),
    ),
    Settings("mnist", "MNIST 3 v 5", _pictures("mnist", "MNIST 3 v 5", (3, 5))),
    Settings("cifar", "CIFAR-10 2 v 9", _pictures("cifar10", "CIFAR-10 2 v 9", (2, 9))),
    Settings(
        "tiny-imagenet",
        "Tiny ImageNet 0 v 1",
        _pictures("tiny_imagenet", "Tiny ImageNet 0 v 1", (0, 1)),
    ),
)
EXPERIMENTS = Named("experiment", {settings.name: settings for settings in _EXPERIMENTS})
"""Every experiment by its name on the command line, with the paper's settings."""


def shrink(settings: Settings) -> Settings:
    """The same experiment in a second or two: proves that everything works, measures nothing."""
    cases = tuple(
        replace(case, samples=12, per_class=6, inputs=min(case.inputs, 5)) for case in settings.cases
    )
    return replace(
        settings,
        cases=cases,
        steps=min(settings.steps, 60),
        draws=min(settings.draws, 200),
        network_directions=min(settings.network_directions, 4),
        run_values=400,
        regression_draws=2_000,
        tiny=True,
    )
