"""A learning rate that holds: tried on copies of model and optimizer, with the curvature measured on the way.

η* at a network's first weights misleads. Curvature grows while a network learns, twentyfold and more in a small
convolutional one, and a run's own noise walks its weights to where there is more of it: with momentum b that walk
goes by η/(1-b), which the limit 2(1+b)/λ_max of many directions lets grow large. So the run itself is tried.

How long? After t steps a run has gone ηt along its path, and its walk η√t from it. At half the learning rate and in
twice the steps it goes as far along the path, and its walk 1/√2 as far: a trial of t steps vouches for 2t at half
its rate. In four times the steps the walk is as long as the trial's, which may have ended just in time.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from math import isfinite

import torch
from torch import Tensor, nn

from zo_triton.directions import check_seed
from zo_triton.nzk.arrays import check_choice, check_count
from zo_triton.nzk.limit import at_rest, max_stable_lr_of
from zo_triton.nzk.probe import LOSSES, check_finite, check_known, outputs_of, trained_by
from zo_triton.nzk.trial import MARGIN, Trial, seeded
from zo_triton.optim import ZOSGD

STEPS = 200
"""Of a trial, unless told otherwise."""

SAMPLES = 16
"""Whose curvature is measured, unless told otherwise."""

BATCH = 64
"""Samples of a step, unless told otherwise."""

COVERED = 2
"""Steps of a run at half the advised rate that each step of the trial vouches for."""

TRIES = 16
"""Trials at most; each has a half to a quarter of the learning rate of the one before."""

DEEPEST = 4.0
"""The most by which a trial divides the learning rate of the one before: a run that has left its valley meets an η*
that may be thousands of times too small for the valley itself."""

IGNORED = -100
"""The label that torch's cross-entropy leaves out."""


@dataclass(frozen=True)
class Advice:
    """What trials found.

    Attributes:
        lr: The largest learning rate tried that held for a whole trial.
        limit: The smallest η* met on the way.
        start: η* at the present weights.
        steps: Of a trial.
        first: Loss of the first step.
        last: Mean loss of the last steps at ``lr``.
    """

    lr: float
    limit: float
    start: float
    steps: int
    first: float
    last: float

    def __str__(self) -> str:
        did = "in which the loss went" if self.last < self.first else "but the loss did not fall:"
        return (
            f"lr = {self.lr:.3g} held for {self.steps} steps, {did} from "
            f"{self.first:.3g} to {self.last:.3g}; the largest stable one is {self.start:.3g} at these "
            f"weights and at its lowest {self.limit:.3g} on the way. Begin a run of up to {self.covered} "
            f"steps with {self.lr / 2:.3g}, a longer one after trials of half its steps."
        )

    @property
    def covered(self) -> int:
        """Steps of a run at half of ``lr`` that the trial vouches for: it goes as far, and its noise less far."""
        return COVERED * self.steps


def advise_lr(
    optimizer: ZOSGD,
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    loss: str = "cross_entropy",
    steps: int = STEPS,
    batch: int = BATCH,
    samples: int = SAMPLES,
    seed: int = 0,
) -> Advice:
    """Finds a learning rate that holds while the model learns, by trials on copies; changes nothing.

    The first trial has half of η* at the present weights. A trial ends early where η* falls below twice its
    learning rate, a step's loss is more than twice the first one's, or the mean loss of a tenth of the steps, of
    20 at least, comes to be above its lowest by a quarter of the first loss. The next one has half the rate, or
    half of that η* if it is smaller, but no less than a quarter of the rate. η* is that of
    :func:`zo_triton.nzk.probe_lr`, with momentum; under ``perturb="activations"`` or ``"auto"`` it is gradient
    descent's 2(1+b)/λ_max, above which nothing holds, and what noise there is shows in the loss.

    Args:
        optimizer: With one parameter group, full rank and the aggregator ``average``, not ``maximize``; its lr
            is not used.
        model: Whose parameters it trains, all or some. The curvature is measured in eval mode, along those it
            trains.
        x: Samples to train on [n, …], floating-point; some hundreds do.
        y: Their targets, of the outputs' shape; for cross-entropy labels [n], or probabilities [n, classes].
        loss: One of :data:`zo_triton.nzk.probe.LOSSES`.
        steps: Of a trial: half of those of the run that is to come.
        batch: Samples of a step, drawn from x.
        samples: Of x, the first, whose curvature is measured; shuffle x and y if they are sorted.
        seed: Of the drawing, and of what chance the model itself takes from torch, such as dropout, in
            [0, 2**64). torch's own generators are left where they are.

    Returns:
        The learning rate and the limits; ``str`` of it is a sentence.

    Raises:
        TypeError: The optimizer is no ZOSGD, a count or the seed is no integer, y is no tensor or holds labels
            of another dtype than int64 and uint8, or as :func:`zo_triton.nzk.ntk`.
        ValueError: The seed is out of range, x and y have different lengths, y has another shape than the
            outputs, a value that is not finite, or a label that is no class, the loss is 0 or not finite
            already, no learning rate held, or as :func:`zo_triton.nzk.check_lr_of`.

    Example:
        >>> import torch, zo_triton as zo
        >>> model, x = torch.nn.Linear(3, 1), torch.randn(64, 3, generator=torch.Generator().manual_seed(0))
        >>> opt = zo.ZOSGD(model.parameters(), lr=1.0, directions=8)
        >>> advice = zo.nzk.advise_lr(opt, model, x, x.sum(1, keepdim=True), loss="mse", steps=50)
        >>> advice.lr <= advice.limit / 2 <= advice.start / 2
        True
    """
    check_known(optimizer)
    check_choice(loss, "loss", LOSSES)
    for value, name in ((steps, "steps"), (batch, "batch"), (samples, "samples")):
        check_count(value, name)
    check_seed(seed)
    _check_samples(optimizer, model, x, y, loss, samples)
    start = max_stable_lr_of(optimizer, model, x[:samples], loss)
    if not isfinite(start):
        raise ValueError(
            "the curvature is zero: there is nothing to learn here, so no learning rate is best."
        )
    lr = start / MARGIN
    for _ in range(TRIES):
        trial = Trial(*deepcopy((model, optimizer)), lr, steps)
        with seeded(seed, model):
            trial.run(x, y, loss, batch, samples, seed)
        trial.check_first()
        if trial.held:
            return Advice(lr, min(start, trial.limit), start, steps, trial.first, trial.last)
        lr = max(min(lr, trial.limit) / 2, lr / DEEPEST)
    raise ValueError(
        f"no learning rate from {start / MARGIN:.3g} down to {trial.lr:.3g} held; look whether the loss "
        "falls by backpropagation, and raise directions."
    )


def _check_samples(optimizer: ZOSGD, model: nn.Module, x: Tensor, y: Tensor, loss: str, samples: int) -> None:
    """Refuses samples that the loss does not take, or takes for others."""
    for value, name in ((x, "x"), (y, "y")):
        if not isinstance(value, Tensor):
            raise TypeError(f"{name} must be a tensor, got type {type(value).__name__}.")
    if x.shape[:1] != y.shape[:1]:
        raise ValueError(f"x has {len(x)} samples, but y has {len(y)} targets; pass as many of both.")
    check_finite(x, "x")
    with trained_by(optimizer, model), at_rest(model):
        outputs = outputs_of(model, x[:samples], loss)
    shape = (len(x), *outputs.shape[1:])
    if loss == "cross_entropy" and not (y.is_floating_point() and y.shape == shape):
        _check_labels(y, outputs.shape[1])
        return
    if y.shape != shape:
        raise ValueError(
            f"loss {loss!r} compares each output with its target, got outputs of shape {shape} and y of shape "
            f"{tuple(y.shape)}; reshape y."
        )
    check_finite(y, "y")


def _check_labels(y: Tensor, classes: int) -> None:
    if y.dtype not in (torch.int64, torch.uint8):
        raise TypeError(f"labels must be of dtype torch.int64, got y of {y.dtype}; pass y.long().")
    if y.ndim != 1:
        raise ValueError(
            f"labels must have shape [n], got y of shape {tuple(y.shape)}; pass a class a sample."
        )
    labels = y.long()
    labels = labels[labels != IGNORED]
    if len(labels) == 0:
        raise ValueError(
            f"every label is {IGNORED}, which cross-entropy leaves out; pass samples that have a label."
        )
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        raise ValueError(
            f"labels must be in [0, {classes}), the model's logits, got {low} to {high}; count classes from 0, "
            "or give the model as many logits."
        )
