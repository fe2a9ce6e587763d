"""A step's measurement with noise on layers' outputs, and the gradient that it gives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import isfinite
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from zo_triton import ops
from zo_triton._warn import warn
from zo_triton.difference import Evaluation, NotATensorError, Plan, propagate
from zo_triton.difference.applications import LayerSize
from zo_triton.difference.infinities import may_be_lost
from zo_triton.difference.nodes import NodePlan, Nodes
from zo_triton.difference.random_state import RandomState
from zo_triton.directions import Directions
from zo_triton.ops import engines
from zo_triton.optim.black_box import BlackBox
from zo_triton.optim.checks import LARGEST_SLOPE
from zo_triton.optim.errors import NonFiniteLossError, remedy
from zo_triton.optim.where_to_perturb import Layer, choose

if TYPE_CHECKING:
    from zo_triton.distributed import Ranks, Take


@dataclass(frozen=True, eq=False)
class NodeMeasurement:
    """What a step with noise on layers' outputs has learned about the loss around the weights.

    Attributes:
        loss: The base loss, finite.
        gradients: The gradient's estimate for each parameter in the order of the ids, float32 (float64 for such);
            None for a parameter that the closure did not use.
        differences: Loss differences of the samples, float32 [K, N] or [K, N, T], with two sides [K, 2, …]; those
            that this rank has measured, if several parts of a batch are shared out.
        on_nodes: Ids of the parameters whose layers' outputs were perturbed; all others were perturbed themselves.
        directions: The directions walked.
        compute_dtype: The dtype of the differences.
        plan: How the run was cut up; spares the next one another start.
    """

    loss: float
    gradients: list[Tensor | None]
    differences: Tensor
    on_nodes: frozenset[int]
    directions: Directions
    compute_dtype: torch.dtype
    plan: Plan


def start_plan(perturb: str, num: int) -> Plan:
    """What the first step of ``num`` directions begins with."""
    return Plan(num, nodes=NodePlan(choose=_at_weights if perturb == "auto" else None))


def _at_weights(layers: Sequence[LayerSize], samples: int, directions: Directions) -> frozenset[int]:
    """Ids of the parameters of the layers that had better be perturbed at their weights.

    One layer stays, that with the fewest nodes: samples are told apart by their noise.
    """
    tiny = torch.finfo(torch.float32).tiny
    sizes = [Layer(each.nodes, each.elements, max(each.input_square, tiny)) for each in layers]
    choice = choose(sizes, samples, directions.num, directions.order)
    movable = [layer for layer in layers if layer.nodes]
    at_weights = [layer for layer, at in zip(layers, choice.at_weights, strict=True) if at]
    if len(at_weights) == len(layers) and movable:
        at_weights.remove(min(movable, key=lambda layer: layer.nodes))
    return frozenset(i for layer in at_weights for i in layer.ids)


def measure_nodes(
    closure: Callable[..., Any],
    params: Sequence[Tensor],
    directions: Directions,
    evaluation: Evaluation,
    plan: Plan,
    ranks: Ranks | None = None,
) -> NodeMeasurement:
    """Evaluates each sample's loss and its differences, and makes the gradient of them; changes no weight.

    The arguments are taken as checked (:mod:`zo_triton.optim.checks`).

    Args:
        closure: Takes nothing, returns the samples' losses [N], or tokens' [N, T], or a scalar that ends in a
            reduction of such. With ranks that share a batch it takes ``take``.
        params: The trained tensors in the order of their ids.
        directions: Names the K directions.
        evaluation: ε and what else says how to evaluate.
        plan: That of the last measurement of such a closure, or :func:`start_plan`'s.
        ranks: Share the work: the directions, or else the batch.

    Raises:
        TypeError: The closure returned no tensor.
        MemoryError: Not even one direction at a time fits in memory.
        NonFiniteLossError: The loss, or every sample's differences, are NaN or infinite.
        ValueError: Samples can't be told apart, no layer can be perturbed on its outputs, or the ranks share
            directions and batch at once.
        RankError: A rank is gone, or has measured another loss than the others.

    Warns:
        RuntimeWarning: Some samples' differences are not finite; the samples are left out.
        UserWarning: Some layers mix samples and are perturbed in their weights.
    """
    if isinstance(closure, BlackBox):
        raise ValueError(
            "a zo.BlackBox can't be seen into, so nothing can be perturbed inside; use perturb='weights'."
        )
    step = _Step(params, directions, evaluation, plan)
    if ranks is None:
        return step.measured(*step.run(closure, 0, directions.num))
    before = RandomState.capture(params[0].device)
    try:
        if ranks.batch_shards > 1:
            return step.with_parts(ranks, closure, before)
        return step.with_directions(ranks, closure, before)
    except BaseException:
        before.restore()
        raise


class _Step:
    """One measurement under way."""

    def __init__(
        self, params: Sequence[Tensor], directions: Directions, evaluation: Evaluation, plan: Plan
    ) -> None:
        self.params, self.directions, self.evaluation, self.plan = params, directions, evaluation, plan
        self.nodes: Nodes | None = None
        self.whole: bool | None = None  # whether every sample is usable, where one run has told

    def run(
        self, closure: Callable[[], Any], first: int, stop: int, period: int | None = None, part: int = 0
    ) -> tuple[float, Tensor]:
        """Loss and differences for some of the directions."""
        some = self.directions if stop - first == self.directions.num else self.directions[first:stop]
        losses: list[float] = []

        def accept(value: Tensor, found: Tensor, mendable: bool) -> bool:
            """Refuses what no step can use, while the closure's writes can still be taken back."""
            slopes = self.evaluation.slopes(found)
            loss, whole = engines.read(value.mean() if value.dim() else value, _are_usable(slopes).all())
            lost = not whole and may_be_lost(value, found, losses=True)
            if lost and mendable:
                return False
            if not whole:
                loss = _loss_of_some(value, usable_samples(slopes), self.evaluation.eps)
            losses.append(_checked(loss))
            self.whole = bool(whole) if some is self.directions and not part else None
            return not lost

        try:
            _, found, self.plan, self.nodes = propagate(
                closure,
                self.params,
                some,
                self.evaluation,
                None,
                self.plan,
                accept,
                period,
                self.directions,
                part,
            )
        except NotATensorError as error:
            raise TypeError(
                "with noise on activations the closure must return losses as a tensor, [N] or reduced, got "
                f"{error.value!r} of type {type(error.value).__name__}; is a `return` missing?"
            ) from None
        return losses[-1], found

    def measured(self, loss: float, found: Tensor) -> NodeMeasurement:
        """The measurement of what all directions have found."""
        slopes = self.evaluation.slopes(found)
        usable = None if self.whole else usable_samples(slopes)
        nodes = self.nodes
        assert nodes is not None
        with engines.uncast(slopes.device):
            gradients = gradient_of(self.params, nodes, self.directions, slopes, usable, self.evaluation)
        on_nodes = frozenset(each for a in nodes.applications for each in a.ids)
        if usable is not None and not bool(usable.all()):
            tell_left_out(int((~usable).sum()), usable.numel(), self.evaluation.eps)
        return NodeMeasurement(
            loss, gradients, found, on_nodes, self.directions, self.evaluation.compute_dtype, self.plan
        )

    def with_directions(
        self, ranks: Ranks, closure: Callable[..., Any], before: RandomState
    ) -> NodeMeasurement:
        """Each rank measures some directions, and all get all K·N numbers."""
        calls = 0

        def share(first: int, stop: int, take: Take) -> tuple[float, Tensor]:
            nonlocal calls
            if calls:
                before.restore()
            calls += 1
            return self.run(closure, first, stop, self.directions.num // ranks.shards)

        loss, found = ranks.share(share, self.directions.num)
        return self.measured(loss, found.to(self.params[0].device))

    def with_parts(self, ranks: Ranks, closure: Callable[..., Any], before: RandomState) -> NodeMeasurement:
        """Each rank measures all directions on a part of the batch, and the gradients are averaged."""
        if ranks.shards > 1:
            raise ValueError(
                f"ranks that share the batch ({ranks.batch_shards} parts) measure all directions each when "
                f"activations are perturbed, got {ranks.shards} shards of the directions; use shards=1."
            )
        latest: list[NodeMeasurement] = []

        def share(first: int, stop: int, take: Take) -> tuple[float, Tensor]:
            if latest:
                before.restore()
            part = len(latest) + ranks.rank * (ranks.batch_shards // ranks.size)
            latest.append(self.measured(*self.run(partial(closure, take), 0, self.directions.num, part=part)))
            flat = [_dense(g, p).flatten() for g, p in zip(latest[-1].gradients, self.params, strict=True)]
            return latest[-1].loss, torch.cat([each.float() for each in flat]).unsqueeze(0)

        loss, whole = ranks.share(share, 1, comparable=False)
        sizes = [param.numel() for param in self.params]
        pieces = whole[0].to(self.params[0].device).split(sizes)
        gradients: list[Tensor | None] = [
            piece.view(param.shape) for piece, param in zip(pieces, self.params, strict=True)
        ]
        return replace(latest[-1], loss=loss, gradients=gradients)


def gradient_of(
    params: Sequence[Tensor],
    nodes: Nodes,
    directions: Directions,
    slopes: Tensor,
    usable: Tensor | None,
    evaluation: Evaluation,
) -> list[Tensor | None]:
    """The gradient's estimate for each parameter.

    A node's share is the mean over k of its sign times its sample's slope; of a layer whose tokens reach no earlier
    token's loss, times the slopes of its own and later tokens.

    Args:
        params: The trained tensors in the order of their ids.
        nodes: What the run remembers.
        directions: Names the K directions.
        slopes: Projected gradients of each loss, [K, N] or [K, N, T].
        usable: [N] bool: the others' losses count nothing; None where all are.
        evaluation: Of the compute dtype.
    """
    losses = nodes.losses
    assert losses is not None
    num, samples = slopes.shape[0], nodes.applications[0].node.samples
    per_token = slopes.reshape(num, samples, -1) * (losses.share / num)
    bad = None
    if usable is not None:
        whole_samples = usable if usable.numel() == samples else usable.view(samples, -1).all(1)
        per_token = torch.where(whole_samples[None, :, None], per_token, torch.zeros_like(per_token))
        bad = ~whole_samples if engines.any_set(~whole_samples) else None
    per_sample = per_token.sum(2) if per_token.shape[2] > 1 else per_token.squeeze(2)
    causal = nodes.causal
    later = per_token.flip(2).cumsum(2).flip(2).reshape(num, -1) if causal else per_sample
    directions = directions.with_offsets(nodes.directions.offsets)
    gradients: list[Tensor | None] = [None] * len(params)
    for number, application in enumerate(nodes.applications):
        coefficients = later if number in causal else per_sample
        of_nodes = ops.node_gradient(coefficients, directions, application.node, application.positions)
        for tensor_id, share in application.gradients(of_nodes.view(samples, -1), bad):
            present = gradients[tensor_id]
            gradients[tensor_id] = share if present is None else present.add_(share)
    ids = sorted(nodes.weights)
    if ids:
        totals = [torch.zeros_like(params[i], dtype=_sum_dtype(params[i])) for i in ids]
        ops.accumulate_on_grid(totals, ids, per_sample.sum(1), directions, evaluation.compute_dtype)
        for tensor_id, total in zip(ids, totals, strict=True):
            gradients[tensor_id] = total
    return gradients


def _sum_dtype(param: Tensor) -> torch.dtype:
    return torch.float64 if param.dtype == torch.float64 else torch.float32


def _dense(gradient: Tensor | None, param: Tensor) -> Tensor:
    return torch.zeros_like(param, dtype=torch.float32) if gradient is None else gradient


def usable_samples(slopes: Tensor) -> Tensor:
    """Which losses' first axis, [N] bool, have finite slopes of a sensible size along all directions."""
    within = _are_usable(slopes)
    return within.flatten(2).all(2).all(0) if within.dim() > 2 else within.all(0)


def _are_usable(slopes: Tensor) -> Tensor:
    return slopes.abs() < LARGEST_SLOPE  # which a NaN is not


def _checked(loss: float) -> float:
    """The loss; refuses one that no step can use."""
    if not isfinite(loss):
        raise NonFiniteLossError(
            f"the loss is {loss}: the step is refused and the weights stay as they are; look for overflow in the "
            "model, restart from a checkpoint with a lower lr, or return the samples' losses (reduction='none') so "
            "that a bad sample can be left out."
        )
    return loss


def _loss_of_some(value: Tensor, usable: Tensor, eps: float) -> float:
    """The mean base loss where samples are left out, perhaps all of them."""
    if value.dim() > 0:
        rows = value.flatten(1).mean(1) if value.dim() > 1 else value
        kept = torch.where(usable, rows, torch.zeros_like(rows)).sum() / usable.sum()
        value = torch.where(usable.any(), kept, rows.mean())
    loss, some = engines.read(value, usable.any())
    if isfinite(loss) and not some:
        raise NonFiniteLossError(
            f"the loss is {loss} but the differences of each of the {usable.numel()} samples' losses are NaN or "
            "infinite: the step is refused and the weights stay as they are; " + remedy(eps)
        )
    return loss


def tell_left_out(missing: int, samples: int, eps: float) -> None:
    """Warns that some samples count nothing."""
    warn(
        f"the loss differences of {missing} of {samples} samples are NaN or infinite, or their slopes beyond "
        f"2**60; these samples are left out of this step. Look at the data, or lower eps={eps}.",
        RuntimeWarning,
    )
