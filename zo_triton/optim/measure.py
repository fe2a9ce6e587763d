"""One step's measurement: the loss, its differences along K directions, and the projected gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import isfinite
from numbers import Real
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from zo_triton import ops
from zo_triton._warn import warn
from zo_triton.difference import Evaluation, NotATensorError, Plan, propagate
from zo_triton.difference.plan import Accept
from zo_triton.difference.random_state import RandomState
from zo_triton.directions import Directions
from zo_triton.ops import engines
from zo_triton.optim.aggregators import Aggregator, get_aggregator
from zo_triton.optim.black_box import BlackBox, black_box_differences
from zo_triton.optim.checks import LARGEST_SLOPE
from zo_triton.optim.errors import NonFiniteLossError, remedy

if TYPE_CHECKING:
    from zo_triton.distributed import Ranks, Take
    from zo_triton.optim.node_measure import NodeMeasurement

Measured = TypeVar("Measured", bound="Measurement | NodeMeasurement")

_warned_closures: set[str] = set()


class Learned(NamedTuple):
    """What a trainer keeps of its latest step.

    Attributes:
        loss: The base loss, finite.
        projected: As in :class:`Measurement`; None where activations are perturbed.
        usable: As in :class:`Measurement`.
    """

    loss: float
    projected: Tensor | None = None
    usable: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Measurement:
    """What a step has learned about the loss around the weights.

    Attributes:
        loss: The base loss L(θ), finite.
        projected: Projected gradients c_k, [K] float32: ΔL/ε, or (ΔL₊ - ΔL₋)/2ε with two sides. The slope
            along the direction as it was walked, its scale included.
        differences: L(θ + sεz_k) - L(θ), float32 [K], or [K, 2] with the plus side first.
        usable: [K] bool, False where the projected gradient is not finite, or beyond 2**60; None where all are.
        scales: [K] float32 factors on ε (``sphere``), or None where they are 1.
        directions: The directions walked.
        compute_dtype: The dtype whose rounding defines z.
        plan: How the run was cut up; spares the next one a second start. None for a black box.
    """

    loss: float
    projected: Tensor
    differences: Tensor
    usable: Tensor | None
    scales: Tensor | None
    directions: Directions
    compute_dtype: torch.dtype
    plan: Plan | None

    def coefficients(self, params: Sequence[Tensor], aggregator: str | Aggregator) -> Tensor:
        """The a_k of the gradient estimate ĝ = Σ_k a_k·z_k, scales included: ready for ``accumulate``.

        A direction that is not usable is left out, as if it had not been drawn: its coefficient is 0.

        Args:
            params: The trained tensors in the order of their ids; only their shapes are read.
            aggregator: A name in :data:`zo_triton.optim.AGGREGATORS`, or a function of that form.

        Returns:
            [K] float32.

        Raises:
            ValueError: The aggregator is unknown.
        """

        def gram() -> Tensor:
            matrix = ops.gram(params, range(len(params)), self.directions, self.compute_dtype)
            if self.scales is not None:
                scales = self.scales.double()
                matrix = matrix * scales[:, None] * scales
            return matrix if self.usable is None else matrix[self.usable][:, self.usable]

        aggregate = get_aggregator(aggregator)
        if self.usable is None:
            result = aggregate(self.projected, gram)
        else:
            result = torch.zeros_like(self.projected)
            result[self.usable] = aggregate(self.projected[self.usable], gram)
        return result if self.scales is None else result * self.scales


def measure(
    closure: Callable[[], Any],
    params: Sequence[Tensor],
    directions: Directions,
    evaluation: Evaluation,
    plan: Plan | None = None,
    ranks: Ranks | None = None,
) -> Measurement:
    """Evaluates the loss and its differences; changes nothing but torch's random state, and if it fails not that.

    The arguments are taken as checked (:mod:`zo_triton.optim.checks`).

    Args:
        closure: Takes nothing, returns a scalar tensor; or a :class:`BlackBox`. A closure that returns a
            plain number is treated as a black box, with one warning.
        params: The trained tensors in the order of their ids.
        directions: Names the K directions.
        evaluation: ε and what else says how to evaluate.
        plan: That of the last measurement of such a closure.
        ranks: Share the work; each measures some of the directions, and all get all results.

    Returns:
        The measurement, with a finite loss and at least one usable direction.

    Raises:
        TypeError: The closure returned neither a tensor nor a number.
        MemoryError: Not even one direction at a time fits in memory.
        NonFiniteLossError: The loss is NaN or infinite, or every direction's difference is.
        ValueError: The loss is not a scalar.
        RankError: A rank is gone, or has measured another loss than the others.

    Warns:
        RuntimeWarning: Some directions' differences are not finite; they are left out. Or memory ran out, and
            the step went on with fewer directions at once.
    """
    directions = directions.over(param.shape for param in params)
    scales = ops.direction_scales(params, range(len(params)), directions, evaluation.compute_dtype)
    before = None if ranks is None else RandomState.capture(params[0].device)
    judged: list[tuple[float, Tensor, Tensor | None]] = []

    def accept(value: Tensor, found: Tensor, mendable: bool) -> bool:
        _check_scalar(value)
        loss, projected, usable = _judge(value, found, evaluation)
        if usable is not None and not mendable:
            _report_unusable(usable, loss, evaluation.eps)
        judged.append((loss, projected, usable))
        return usable is None

    def evaluate(
        run: Callable[[], Any], first: int, stop: int, accept: Accept | None = None, period: int | None = None
    ) -> tuple[Tensor, Tensor]:
        nonlocal plan
        some = directions if stop - first == directions.num else directions[first:stop]
        some_scales = None if scales is None else scales[first:stop]
        if not isinstance(run, BlackBox):
            try:
                value, found, plan, _ = propagate(
                    run, params, some, evaluation, some_scales, plan, accept, period
                )
                return value, found
            except NotATensorError as error:
                _accept_number(run, error)
        plan = None
        return black_box_differences(run, params, some, evaluation, some_scales, accept)

    if ranks is None or before is None:
        _, found = evaluate(closure, 0, directions.num, accept)
        loss, projected, usable = judged[-1]
    else:
        try:
            loss, found = _shared(ranks, closure, evaluate, directions.num, before)
            found = found.to(params[0].device)
            loss, projected, usable = _judge(loss, found, evaluation)
            if usable is not None:
                _report_unusable(usable, loss, evaluation.eps)
        except BaseException:
            before.restore()
            raise
    return Measurement(loss, projected, found, usable, scales, directions, evaluation.compute_dtype, plan)


def checked_measurement(measurement: Measured | None, directions: Directions, dtype: torch.dtype) -> Measured:
    """What the next step can move by.

    Args:
        measurement: What was measured last.
        directions: Those of the next step.
        dtype: Its compute dtype.

    Raises:
        ValueError: Nothing was measured, or something else.
    """
    if measurement is None:
        raise ValueError(
            "step needs a closure that returns the loss: opt.step(lambda: loss_fn(model(x), y)); a "
            "zeroth-order step evaluates it along its directions. Or call opt.measure(closure) before."
        )
    if (measurement.directions, measurement.compute_dtype) != (directions, dtype):
        raise ValueError(
            f"{measurement.directions} in {measurement.compute_dtype} were measured, but the next step walks "
            f"{directions} in {dtype}; measure again after a setting has changed or a step was applied."
        )
    return measurement


def _judge(
    value: Tensor | float, found: Tensor, evaluation: Evaluation
) -> tuple[float, Tensor, Tensor | None]:
    """Loss, projected gradients and which of them are usable (None: all); refuses a loss that is not finite."""
    projected = evaluation.slopes(found)
    usable = projected.abs() < LARGEST_SLOPE  # which a NaN is not
    whole = usable.all()
    if isinstance(value, Tensor):
        loss, all_usable = engines.read(value, whole.to(value.device))
    else:
        loss, all_usable = value, float(whole)
    _check_finite(loss)
    return loss, projected, None if all_usable else usable


def _accept_number(closure: Callable[[], Any], error: NotATensorError) -> None:
    """Warns once a closure that its plain number is evaluated as a black box; refuses anything else."""
    if not isinstance(error.value, Real):
        raise TypeError(
            f"the closure must return the loss as a scalar tensor, got {error.value!r} of type "
            f"{type(error.value).__name__}; is a `return` missing?"
        ) from None
    kind = type(closure)
    name = f"{getattr(closure, '__module__', '')}.{getattr(closure, '__qualname__', kind.__qualname__)}"
    if name not in _warned_closures:
        warn(
            f"{name} returned a {type(error.value).__name__}, not a tensor: it is evaluated once a direction "
            "on perturbed weights, which is slower and less exact. Return the tensor, or wrap the closure in "
            "zo.BlackBox to say that this is meant.",
            UserWarning,
        )
        _warned_closures.add(name)


def _shared(
    ranks: Ranks,
    closure: Callable[..., Any],
    evaluate: Callable[..., tuple[Tensor, Tensor]],
    num: int,
    before: RandomState,
) -> tuple[float, Tensor]:
    """The loss and all differences, measured by all ranks together."""
    calls = 0

    def share(first: int, stop: int, take: Take) -> tuple[float, Tensor]:
        nonlocal calls
        if calls:
            before.restore()
        calls += 1
        run = closure
        if ranks.batch_shards > 1:
            run = (
                BlackBox(partial(closure.closure, take))
                if isinstance(closure, BlackBox)
                else partial(closure, take)
            )
        value, found = evaluate(run, first, stop, period=num // ranks.shards)
        return _checked_loss(value), found

    # Two evaluations of a black box need not agree: it may be a simulator that draws.
    return ranks.share(share, num, comparable=not isinstance(closure, BlackBox))


def _checked_loss(value: Tensor) -> float:
    _check_scalar(value)
    return float(value)


def _check_scalar(value: Tensor) -> None:
    if value.dim() != 0:
        raise ValueError(
            f"the loss must be a scalar, got a tensor of shape {tuple(value.shape)}; reduce it, for example "
            "with .mean()."
        )


def _check_finite(loss: float) -> None:
    if not isfinite(loss):
        raise NonFiniteLossError(
            f"the loss is {loss}: the step is refused and the weights stay as they are; look for overflow in "
            "the model, or restart from a checkpoint with a lower lr."
        )


def _report_unusable(usable: Tensor, loss: float, eps: float) -> None:
    missing, total = int((~usable).sum()), usable.numel()
    if missing == total:
        raise NonFiniteLossError(
            f"the loss is {loss} but its difference along each of the {total} directions is NaN or "
            "infinite, or its slope beyond 2**60: the step is refused and the weights stay as they are; "
            + remedy(eps)
        )
    warn(
        f"the loss difference along {missing} of {total} directions is NaN or infinite, or its slope beyond "
        f"2**60; they are left out of this step. If this goes on, {remedy(eps)}",
        RuntimeWarning,
    )
