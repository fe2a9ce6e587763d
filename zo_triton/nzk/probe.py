"""Is this learning rate stable? η* from the curvature that a probe batch shows at the model's present weights.

The curvature is that of the loss in the linearised model, the generalised Gauss-Newton matrix JᵀΛJ/n: for squared
losses Λ is a multiple of the identity and the eigenvalues are the NTK's; for cross-entropy Λ = diag(p) - ppᵀ.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from zo_triton._warn import warn
from zo_triton.nzk.arrays import check_choice
from zo_triton.nzk.evolution import check_lr
from zo_triton.nzk.spectrum import hutchinson_trace, largest_eigenvalue
from zo_triton.nzk.stability import lr_bounds, max_stable_lr
from zo_triton.nzk.tangent_kernel import check_model, linearize
from zo_triton.optim import ZOSGD, NonFiniteLossError

LOSSES = ("cross_entropy", "mse", "squared")
"""torch's mean cross-entropy, torch's mean squared error, and the theory's (1/2n)|f - y|²."""

LARGEST_JACOBIAN = 1 << 26
"""Entries (512 MiB in float64) up to which the whole spectrum is computed."""

PROBES = 16
"""Random vectors of the trace's estimate beyond that."""


@dataclass(frozen=True)
class Probe:
    """What a probe batch says about a learning rate.

    Attributes:
        lr: The learning rate asked about.
        lower: η* is at least this …
        upper: … and at most this; both are η* itself where the whole spectrum was computed.
        largest: λmax of the curvature.
        trace: Its trace.
    """

    lr: float
    lower: float
    upper: float
    largest: float
    trace: float

    @property
    def is_beyond(self) -> bool:
        """Whether the learning rate is certainly above η*."""
        return self.lr > self.upper

    def __str__(self) -> str:
        limit = f"{self.upper:.3g}" if self.lower == self.upper else f"{self.lower:.3g} to {self.upper:.3g}"
        if self.is_beyond:
            verdict = "beyond it: expect the loss to grow or to hover, lower lr or raise directions"
        else:
            verdict = "below it" if self.lr <= self.lower else "perhaps beyond it"
            verdict += ", though it mostly falls as a network learns; zo.nzk.advise_lr tries"
        return (
            f"lr = {self.lr:g}; the largest stable one on this batch, at these weights, is {limit} "
            f"(curvature: largest {self.largest:.3g}, trace {self.trace:.3g}): {verdict}."
        )


def probe_lr(
    model: nn.Module,
    x: Tensor,
    lr: float,
    num_directions: int,
    loss: str = "cross_entropy",
    distribution: Any = "rademacher",
    momentum: float = 0.0,
) -> Probe:
    """Compares the learning rate of a ZO-SGD run with η* at the model's present weights.

    The statement is local: a network moves to other curvature as it learns, mostly to more;
    :func:`zo_triton.nzk.advise_lr` follows it there.

    Args:
        model: Maps [n, …] to [n], [n, o] or logits [n, classes], each sample on its own.
        x: A probe batch [n, …]; some dozens of samples do.
        lr: η.
        num_directions: K, averaged.
        loss: One of :data:`LOSSES`.
        distribution: As in :func:`zo_triton.nzk.max_stable_lr`.
        momentum: b in [0, 1).

    Returns:
        The comparison; ``str`` of it is a sentence.

    Raises:
        TypeError: As :func:`zo_triton.nzk.ntk`.
        ValueError: The loss is unknown, lr is not positive, x or the outputs are not finite, cross-entropy is
            asked of outputs that are not [n, classes], or as :func:`zo_triton.nzk.max_stable_lr` and
            :func:`zo_triton.nzk.ntk`.

    Example:
        >>> import torch
        >>> from zo_triton.nzk import probe_lr
        >>> probe = probe_lr(torch.nn.Linear(3, 1), torch.eye(3), lr=5.0, num_directions=1, loss="squared")
        >>> probe.is_beyond
        True
    """
    check_choice(loss, "loss", LOSSES)
    check_lr(lr)
    outputs = outputs_of(model, x, loss)
    size = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    if outputs.numel() * size <= LARGEST_JACOBIAN:
        eigenvalues = _spectrum(model, x, loss)
        limit = max_stable_lr(
            eigenvalues, num_directions, size=size, distribution=distribution, momentum=momentum
        )
        return Probe(lr, limit, limit, float(eigenvalues[-1]), float(eigenvalues.sum()))
    product = _curvature_product(model, x, loss)
    trace = hutchinson_trace(product, size, PROBES).value
    largest = min(largest_eigenvalue(product, size), trace)
    lower, upper = lr_bounds(
        trace, largest, num_directions, size=size, distribution=distribution, momentum=momentum
    )
    return Probe(lr, lower, upper, largest, trace)


def check_lr_of(optimizer: ZOSGD, model: nn.Module, x: Tensor, loss: str = "cross_entropy") -> Probe:
    """:func:`probe_lr` with the settings of a :class:`zo_triton.ZOSGD`, and a warning if it is beyond η*.

    Args:
        optimizer: With one parameter group and the aggregator ``average``.
        model: Whose parameters it trains, all or some; the curvature is that of those it trains.
        x: A probe batch.
        loss: One of :data:`LOSSES`.

    Returns:
        The comparison.

    Raises:
        TypeError: The optimizer is no ZOSGD, or as :func:`probe_lr`.
        ValueError: The optimizer has several groups or another aggregator, climbs, or trains a tensor that is
            no parameter of the model, or as :func:`probe_lr`.

    Warns:
        RuntimeWarning: The learning rate is beyond η*.
    """
    check_known(optimizer)
    group = optimizer.param_groups[0]
    with trained_by(optimizer, model):
        probe = probe_lr(
            model, x, group["lr"], optimizer.directions, loss, optimizer.distribution, group["momentum"]
        )
    if probe.is_beyond:
        warn(str(probe), RuntimeWarning)
    return probe


def check_known(optimizer: ZOSGD) -> None:
    """Refuses an optimizer whose largest stable learning rate no theory here tells.

    Raises:
        TypeError: It is no ZOSGD.
        ValueError: It has several groups, low-rank directions or another aggregator than ``average``, or climbs.
    """
    if not isinstance(optimizer, ZOSGD):
        raise TypeError(
            f"η* is known for a zo.ZOSGD, got {type(optimizer).__name__}; Adam's learning rate has no such reading."
        )
    if len(optimizer.param_groups) != 1 or optimizer.aggregator != "average" or optimizer.rank is not None:
        raise ValueError(
            f"η* is known for one group, full rank and the aggregator 'average', got {len(optimizer.param_groups)} "
            f"groups, rank {optimizer.rank} and {optimizer.aggregator!r}."
        )
    if optimizer.param_groups[0]["maximize"]:
        raise ValueError(
            "η* is known for descent, got maximize=True; ask with maximize=False and a loss that is to fall."
        )


@contextmanager
def trained_by(optimizer: ZOSGD, model: nn.Module) -> Iterator[None]:
    """Within it exactly those parameters require a gradient that the optimizer trains.

    Raises:
        TypeError: ``model`` is no module.
        ValueError: The optimizer trains a tensor that is no parameter of the model.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {model!r} of type {type(model).__name__}.")
    group, own = optimizer.param_groups[0], list(model.parameters())
    trained, known = {id(tensor) for tensor in group["params"]}, {id(parameter) for parameter in own}
    names = group.get("param_names") or ("",) * len(group["params"])
    foreign = [
        f"{name} {list(tensor.shape)}".strip()
        for name, tensor in zip(names, group["params"], strict=True)
        if id(tensor) not in known
    ]
    if foreign:
        raise ValueError(
            f"the optimizer trains what is no parameter of the model: {', '.join(foreign)}; pass the module that "
            "holds all that is trained."
        )
    before = [parameter.requires_grad for parameter in own]
    try:
        for parameter in own:
            parameter.requires_grad_(id(parameter) in trained)
        yield
    finally:
        for parameter, required in zip(own, before, strict=True):
            parameter.requires_grad_(required)


def outputs_of(model: nn.Module, x: Tensor, loss: str) -> Tensor:
    """The model's outputs on x, if the curvature of this loss is known there.

    Raises:
        TypeError: The model returns no tensor, or as :func:`zo_triton.nzk.ntk`.
        ValueError: x is not finite, a sample has no outputs of its own, or not [n, classes] under cross-entropy,
            or as :func:`zo_triton.nzk.ntk`.
        NonFiniteLossError: The outputs are not finite.
    """
    check_model(model, x)
    check_finite(x, "x")
    with torch.no_grad():
        outputs = model(x)
    if not isinstance(outputs, Tensor):
        raise TypeError(
            f"model must return a tensor, got {type(outputs).__name__}; wrap it in a module that picks its outputs."
        )
    if outputs.shape[:1] != x.shape[:1]:
        raise ValueError(
            f"model must return outputs [n, …] for inputs [n, …], got shape {tuple(outputs.shape)} for "
            f"{tuple(x.shape)}; give each sample its own."
        )
    if loss == "cross_entropy" and outputs.ndim != 2:
        raise ValueError(
            f"loss 'cross_entropy' needs logits [n, classes], got outputs of shape {tuple(outputs.shape)}; "
            "give each sample one row of logits."
        )
    if not outputs.isfinite().all():
        raise NonFiniteLossError(
            "the model's outputs on x are not all finite, so its loss has no curvature; look at its weights."
        )
    return outputs


def check_finite(tensor: Tensor, name: str) -> None:
    """Refuses a NaN or an infinity.

    Raises:
        ValueError: There is one.
    """
    wrong = tensor.numel() - int(tensor.isfinite().sum())
    if wrong:
        raise ValueError(f"{name} has {wrong} value(s) that are NaN or infinite; clean the data first.")


def curvature(model: nn.Module, x: Tensor, loss: str = "cross_entropy") -> np.ndarray:
    """Eigenvalues of JᵀΛJ/n, those that can differ from zero, ascending.

    Args:
        model: As in :func:`probe_lr`.
        x: As in :func:`probe_lr`.
        loss: One of :data:`LOSSES`.

    Returns:
        float64 [n·o], not negative beyond rounding.

    Raises:
        TypeError: As :func:`zo_triton.nzk.ntk`.
        ValueError: The loss is unknown, x or the outputs are not finite, cross-entropy is asked of outputs that
            are not [n, classes], or as :func:`zo_triton.nzk.ntk`.
    """
    check_choice(loss, "loss", LOSSES)
    outputs_of(model, x, loss)
    return _spectrum(model, x, loss)


def _spectrum(model: nn.Module, x: Tensor, loss: str) -> np.ndarray:
    line, samples = linearize(model, x), x.shape[0]
    rows = line.features
    if loss == "cross_entropy":
        logits = torch.from_numpy(line.outputs).view(samples, -1)
        p = logits.softmax(1)
        values, vectors = torch.linalg.eigh(torch.diag_embed(p) - p[:, :, None] * p[:, None, :])
        roots = (vectors * values.clamp(min=0).sqrt()[:, None, :]) @ vectors.mT
        rows = (roots @ torch.from_numpy(rows).view(samples, logits.shape[1], -1)).flatten(0, 1).numpy()
    scale = {"cross_entropy": samples, "squared": samples, "mse": line.outputs.size / 2}[loss]
    return np.linalg.eigvalsh(rows @ rows.T / scale).clip(min=0)


def _curvature_product(model: nn.Module, x: Tensor, loss: str) -> Any:
    """v → JᵀΛJv/n by two reverse-mode passes and a third over them, in the model's own precision."""
    names = [name for name, value in model.named_parameters() if value.requires_grad]
    trained = tuple(value.detach() for value in model.parameters() if value.requires_grad)
    sizes = [value.numel() for value in trained]

    def outputs(*parameters: Tensor) -> Tensor:
        state = dict(zip(names, parameters, strict=True))
        return functional_call(model, state, (x,)).reshape(x.shape[0], -1)

    def product(vector: np.ndarray) -> np.ndarray:
        pieces = torch.from_numpy(np.ascontiguousarray(vector)).split(sizes)
        tangent = tuple(
            piece.view(value.shape).to(value) for piece, value in zip(pieces, trained, strict=True)
        )
        f, moved = torch.autograd.functional.jvp(outputs, trained, tangent)
        if loss == "cross_entropy":
            p = f.softmax(1)
            moved = (p * moved - p * (p * moved).sum(1, keepdim=True)) / x.shape[0]
        else:
            moved = moved * (2 / f.numel() if loss == "mse" else 1 / x.shape[0])
        back = torch.autograd.functional.vjp(outputs, trained, moved)[1]
        return torch.cat([piece.flatten() for piece in back]).double().cpu().numpy()

    return product
