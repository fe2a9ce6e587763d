"""Training foretold: the loss of a run on squared errors, by the linearised model, before a step is taken.

The linearised model's outputs walk f ← f - (η/n)·K̂_t·(f - y) with a fresh update kernel K̂_t a step. The mean
loss has a closed form (:func:`zo_triton.nzk.spread`); how single runs lie about it is found by simulating
them in function space, where of a direction z only X·z counts. That is Gaussian for Gaussian directions and, by
the central limit theorem, nearly so for any other with many weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor, nn

from zo_triton.nzk.arrays import as_vector, check_choice, check_count
from zo_triton.nzk.evolution import check_steps
from zo_triton.nzk.function_space import simulate
from zo_triton.nzk.second_moment import spread
from zo_triton.nzk.tangent_kernel import linearize
from zo_triton.optim import ZOSGD

FACTORS = {"mse": 2.0, "squared": 1.0}
"""Losses as multiples of the theory's (1/2n)|f - y|²: torch's mean squared error, and the theory's own."""

OUTSIDE = 0.05
"""Share of the runs below the band, and as many above it."""


@dataclass(frozen=True, eq=False)
class Prediction:
    """What :func:`predict` expects.

    Attributes:
        steps: [T] the steps asked for.
        losses: [T] mean loss over runs; inf where the learning rate is not stable.
        low: [T] one run of twenty is below …
        high: [T] … and one above: nine of ten are between.
    """

    steps: np.ndarray
    losses: np.ndarray
    low: np.ndarray
    high: np.ndarray

    def __str__(self) -> str:
        return (
            f"loss {self.losses[0]:.4g} at step {self.steps[0]} → {self.losses[-1]:.4g} at step {self.steps[-1]}, "
            f"nine runs of ten between {self.low[-1]:.4g} and {self.high[-1]:.4g}"
        )


def predict(
    model: nn.Module,
    x: Tensor,
    y: Any,
    optimizer: ZOSGD,
    steps: int | Sequence[int],
    loss: str = "mse",
    runs: int = 200,
    seed: int = 0,
) -> Prediction:
    """Foretells the training of a model on one batch by squared loss, at the optimizer's settings.

    Exact in the mean for a model that is linear in its weights and Gaussian directions; for a network as far as it
    stays near its linearisation at the present weights: wide layers, small steps. Changes nothing.

    Args:
        model: Maps [n, …] to [n], [n, o] or [n, …], each sample on its own.
        x: The whole batch of each step, [n, …].
        y: Targets of the outputs' size.
        optimizer: A ZOSGD of the model's trained parameters in one group, at full rank, on weights, with the
            aggregator ``average`` and without weight decay; momentum is taken into account.
        steps: How many, or a list of steps t ≥ 0, ascending, at which to foretell.
        loss: "mse", torch's mean over all outputs, or "squared", half of it.
        runs: Simulated for the band, and with momentum for the mean as well.
        seed: Of the simulation.

    Returns:
        The expected losses and the band in which nine runs of ten lie, at each step.

    Raises:
        TypeError: ``optimizer`` is no ZOSGD, a step is no integer, or as :func:`zo_triton.nzk.ntk`.
        ValueError: The optimizer does what has no such kernel, it holds other parameters than the model, the
            targets do not fit, the steps do not ascend, or as :func:`zo_triton.nzk.ntk`.

    Example:
        >>> import torch, zo_triton as zo
        >>> model, x, y = torch.nn.Linear(3, 1), torch.eye(3), torch.zeros(3, 1)
        >>> opt = zo.ZOSGD(model.parameters(), lr=0.05, directions=16)
        >>> told = zo.nzk.predict(model, x, y, opt, steps=100)
        >>> bool(told.losses[-1] < told.losses[0])
        True
    """
    check_choice(loss, "loss", tuple(FACTORS))
    check_count(runs, "runs", 2)
    _check_optimizer(optimizer, model)
    counts = check_steps(np.arange(check_count(steps, "steps") + 1) if isinstance(steps, int) else steps)
    if np.any(np.diff(counts) <= 0):
        raise ValueError(f"steps must ascend, got {steps!r}.")
    line = linearize(model, x)
    targets = as_vector(y.reshape(-1) if isinstance(y, Tensor) else np.ravel(y), "y", len(line.outputs))
    group, factor = optimizer.param_groups[0], FACTORS[loss]
    lr, momentum, num = group["lr"] * factor, group["momentum"], optimizer.directions
    with np.errstate(over="ignore", invalid="ignore"):
        outputs = simulate(
            _shortest_rows(line.features), line.outputs, targets, lr, max(int(counts[-1]), 1), num_directions=num,
            runs=runs, seed=seed, momentum=momentum, record=counts.tolist(),
        )  # fmt: skip
        of_runs = factor / 2 * ((outputs - targets) ** 2).mean(-1)
    of_runs = np.where(np.isfinite(of_runs), of_runs, np.inf)
    mean = of_runs.mean(1)
    if not momentum:
        square = spread(
            line.outputs,
            targets,
            line.features,
            lr,
            counts.tolist(),
            optimizer.distribution,
            num_directions=num,
        )
        mean = factor / 2 * square / len(targets)
    low, high = np.quantile(of_runs, (OUTSIDE, 1 - OUTSIDE), axis=1, method="nearest")
    return Prediction(counts, mean, low, high)


def _shortest_rows(features: np.ndarray) -> np.ndarray:
    """Rows with the same inner products, no longer than there are rows: Gaussian vectors see nothing else."""
    count, size = features.shape
    return features if size <= count else np.transpose(np.linalg.qr(features.T, mode="r"))


def _check_optimizer(optimizer: ZOSGD, model: nn.Module) -> None:
    """Refuses an optimizer whose steps are not those of one update kernel."""
    if not isinstance(optimizer, ZOSGD):
        raise TypeError(
            f"optimizer must be a zo.ZOSGD, whose kernel is known, got {type(optimizer).__name__}."
        )
    group, *others = optimizer.param_groups
    needed = {
        "groups": (1 + len(others), 1),
        "aggregator": (optimizer.aggregator, "average"),
        "rank": (optimizer.rank, None),
        "perturb": (optimizer.perturb, "weights"),
        "weight_decay": (group["weight_decay"], 0),
        "maximize": (group["maximize"], False),
    }
    for name, (value, known) in needed.items():
        if value != known:
            raise ValueError(f"training is foretold for {name} = {known!r} only, got {value!r}; set it so.")
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    held = group["params"]
    if len(held) != len(trained) or any(a is not b for a, b in zip(held, trained, strict=True)):
        raise ValueError(
            f"the optimizer holds {len(held)} tensors that are not the model's {len(trained)} trained parameters "
            "in their order; make it with [p for p in model.parameters() if p.requires_grad]."
        )
