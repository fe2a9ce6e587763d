"""The public entry: validate, cut the directions into chunks, run the closure once a chunk."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache, partial
from math import nan
from typing import NamedTuple

import torch
from torch import Tensor

from zo_triton import ops
from zo_triton._interrupts import check
from zo_triton.difference import doors
from zo_triton.difference.arguments import (
    check_apart,
    check_closure,
    check_parameters,
    check_scales,
    parameter_list,
)
from zo_triton.difference.base_pass import BasePass, StartState
from zo_triton.difference.evaluation import Evaluation
from zo_triton.difference.exhaustion import halved, is_out_of_memory, make_room, report_shrunk
from zo_triton.difference.independence import is_due, settle
from zo_triton.difference.infinities import may_be_lost
from zo_triton.difference.mode import DifferenceMode
from zo_triton.difference.nodes import Mask, NodePlan, Nodes
from zo_triton.difference.plan import Accept, Plan, RestartError
from zo_triton.directions import Directions
from zo_triton.ops import engines

BUDGET_CPU = 64 * 2**20
"""Bytes that one tensor of differences may take on a CPU before the directions are cut into chunks."""

SHARE_GPU = 32
"""Into how many parts a GPU's memory falls, of which such a tensor may take one.

The whole memory is divided, not what is free at the moment: a run's chunks, and with them its rounding, are the
same each time. Where too little is free, they are halved until they fit.
"""

CUTS = 3
"""How often a run takes just as many directions at once as the budget holds; from then on half as many at most.

Where differences grow little by little, as those of a sequence that is written on, it would else start again for
each direction.
"""

APPLICATIONS = 2**20
"""Layers' applications that a part of a batch may have: the numbers of the next part's follow."""


class Propagation(NamedTuple):
    """What :func:`propagate` returns.

    Attributes:
        value: The closure's base value, [*shape].
        differences: [K, *shape] or [K, 2, *shape], float32.
        plan: How the run was cut up at last; pass it to the next :func:`propagate` of the same closure.
        nodes: Where layers' outputs were perturbed, what a gradient can be made of.
    """

    value: Tensor
    differences: Tensor
    plan: Plan
    nodes: Nodes | None = None


def differences(
    closure: Callable[[], Tensor],
    params: Iterable[Tensor],
    directions: Directions,
    eps: float,
    sides: int = 1,
    compute_dtype: torch.dtype = torch.float32,
    chunk: int | None = None,
    strict: bool = False,
    scales: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Base value of a closure and its exact difference along each direction, without subtracting two values.

    The closure runs once (once a chunk of directions, with torch's random state, the buffers that it wrote and the
    attributes of the modules that it reaches put back, so that each run is the same) under ``torch.no_grad()``.
    Inside it tensors, ``.item()`` and control flow are those of the base. No parameter is modified; buffers and
    attributes are as after one ordinary run. If it fails, they and the random state are as before the call.
    Where memory runs out, half as many directions are tried at once, down to one.

    Args:
        closure: Takes no argument, returns a tensor of any shape: a loss, per-sample losses, logits.
        params: The trained parameters; position i in this list is tensor id i of the perturbation field.
        directions: Names the K directions.
        eps: Smoothing radius ε > 0.
        sides: 1 for L(θ+εz) − L(θ); 2 for that and L(θ−εz) − L(θ).
        compute_dtype: Of the activations' differences: float32, or bfloat16 for speed. Losses stay float32.
        chunk: Directions evaluated at once, at most; None for as many as the memory budget allows. Beyond
            float32 rounding no value depends on it.
        strict: Refuse a torch function without a difference rule instead of subtracting its values.
        scales: [K] float32 factor on ε for each direction; None for the distribution's own (``sphere``) or 1.

    Returns:
        The value, [*shape], and the differences, float32: [K, *shape], with ``sides=2`` [K, 2, *shape], plus
        side first.

    Raises:
        TypeError: A parameter is no floating-point tensor, ``directions`` is no :class:`Directions`, or the
            closure returns something else than a tensor (:class:`NotATensorError`, which holds it).
        MemoryError: Not even one direction at a time fits in memory.
        ValueError: Anything else that is out of range, a closure whose value depends on no parameter, or an
            in-place function that differences can't follow.

    Warns:
        RuntimeWarning: Memory ran out; the message says how many directions at once it was enough for. Or a module
            that is too far from the closure to be put back changes once a chunk.
    """
    evaluation, params = Evaluation(eps, sides, compute_dtype, chunk, strict), parameter_list(params)
    check_closure(closure)
    check_parameters(params, directions)
    check_apart(params)
    value, found, *_ = propagate(closure, params, directions, evaluation, scales)
    return value, found


def propagate(
    closure: Callable[[], Tensor],
    params: Iterable[Tensor],
    directions: Directions,
    evaluation: Evaluation,
    scales: Tensor | None = None,
    plan: Plan | None = None,
    accept: Accept | None = None,
    period: int | None = None,
    whole: Directions | None = None,
    part: int = 0,
) -> Propagation:
    """:func:`differences` for a caller that asks for those of one closure again and again; raises what that does.

    Args:
        closure: Takes no argument, returns a tensor of any shape.
        params: The trained parameters in the order of their ids.
        directions: Names the K directions.
        evaluation: ε and what else says how to evaluate.
        scales: [K] float32 factors on ε.
        plan: That of the last run, which saves this one from starting twice. With ``nodes``, layers' outputs are
            perturbed, the differences are those of each sample's loss, [K, N] or [K, N, T] (sides after K), and
            ``accept`` gets them so.
        accept: Gets the value and the differences, and raises if they are no good: then what the closure wrote is
            put back as well.
        period: No chunk crosses a multiple of so many directions: each run of them has the bits it has alone.
        whole: The directions of the whole step, where these are a share of it.
        part: Which part of the batch this is: each has signs of its own on layers' outputs.
    """
    params = list(params)
    check_parameters(params, directions)
    directions = directions.over(param.shape for param in params)
    doors.install()
    sides, device = evaluation.sides, params[0].device
    if scales is None:
        scales = ops.direction_scales(params, range(len(params)), directions, evaluation.compute_dtype)
    else:
        check_scales(scales, directions)
    signed_eps = _signed_eps(directions.num, evaluation.steps, scales, device)
    plan = _first_plan(plan, directions.num, period, evaluation.chunk)
    start = None if engines.is_replayable() else StartState.capture(closure, device)
    first, value, nodes = 0, None, None
    # The largest chunk that did not fit; whether the last attempt failed for it, or found out about layers.
    too_many, short, scouted, cuts = 0, False, False, 0
    parts: list[Tensor] = []
    with torch.no_grad(), engines.whole_step(device), BasePass(closure, start, device) as base_pass:
        runs = _Runs(base_pass, params, whole or directions, evaluation, part)
        while first < directions.num:
            check()
            if short:
                make_room(device)
                short = False
            # What is known of nothing yet starts again and again: along one direction that costs little.
            scouting = start is not None and _is_new(plan) and first + 1 < directions.num
            stop = _stop(first, 1 if scouting else plan.chunk, directions.num, period)
            some = directions if stop - first == directions.num else directions[first:stop]
            steps, more = signed_eps[first * sides : stop * sides], stop < directions.num
            try:
                again = first == 0 and not scouted and is_due(some.step)
                base, piece, nodes, plan = runs.evaluate(some, steps, plan, again, more, scouting)
                if scouting:
                    scouted = True
                    continue
                value = base if value is None else _check_same(value, base)
                if not more:
                    before, found = plan, _joined([*parts, piece], directions.num, sides)
                    if plan.mends and nodes is not None:  # a sample whose loss is infinite is left out
                        found = found.masked_fill(value.isinf(), nan)
                    plan = _judged(plan, value, found, accept or _accept, start is not None)
                    if plan.mends and not before.mends:
                        base_pass.forget()
                        parts, first, value = [], 0, None
                        continue
            except RestartError as restart:
                if start is None:
                    raise _too_much_for_a_record(directions.num) from None
                plan = _again(restart.plan, some.num, cuts)
                cuts += plan.chunk < some.num
                continue
            except BaseException as error:
                if start is None or not is_out_of_memory(error):
                    raise
                short = True
                if base_pass.forget():  # the record is the first thing to do without
                    plan = replace(plan, taped=False)
                    continue
                tried = plan.chunk if scouting else some.num  # as many masks at once, at last
                plan = halved(plan, tried, error)
                too_many = max(too_many, tried)
                continue
            parts.append(piece)
            first = stop
    assert value is not None
    if too_many:
        report_shrunk(too_many, plan.chunk)
    return Propagation(value, found, plan, nodes)


def _accept(value: Tensor, found: Tensor, mendable: bool) -> bool:
    """Takes all differences; a GPU is not asked whether they are usable, for which the host would have to wait."""
    return not mendable or engines.waits(found.device) or not may_be_lost(value, found)


def _judged(plan: Plan, value: Tensor, found: Tensor, accept: Accept, repeatable: bool) -> Plan:
    """The plan, which begins to mend if differences are not usable, and ends if that does not help.

    What depends on what is not known then: a loss whose difference was no number seemed to depend on nothing.
    """
    mendable = repeatable and not plan.mends
    if accept(value, found, mendable):
        return plan
    nodes = replace(plan.nodes, known={}) if plan.nodes is not None and mendable else plan.nodes
    return replace(plan, mends=mendable, nodes=nodes)


def _is_new(plan: Plan) -> bool:
    """Whether it perturbs layers' outputs and does not know yet which."""
    return plan.nodes is not None and not plan.nodes.known


def _again(plan: Plan, num: int, cuts: int) -> Plan:
    """What a run of so many directions starts again with after so many cuts: see :data:`CUTS`."""
    if cuts < CUTS or plan.chunk >= num:
        return plan
    return replace(plan, chunk=min(plan.chunk, num // 2))


def _first_plan(plan: Plan | None, num: int, period: int | None, chunk: int | None) -> Plan:
    """What the first attempt goes by: the last run's plan, or all at once, in chunks as large as was asked for."""
    if plan is None:
        plan = Plan(min(period or num, num))
    return plan if chunk is None else replace(plan, chunk=min(chunk, num), fixed=True)


def _stop(first: int, chunk: int, num: int, period: int | None) -> int:
    """The direction after a chunk's last one, where the chunk begins at ``first`` and crosses no period."""
    return min(first + chunk, num, num if period is None else (first // period + 1) * period)


def _joined(pieces: list[Tensor], num: int, sides: int) -> Tensor:
    """The chunks' differences as those of all directions, sides after K."""
    found = torch.cat(pieces) if len(pieces) > 1 else pieces[0]
    return found.view(num, *(() if sides == 1 else (2,)), *found.shape[1:])


def _too_much_for_a_record(num: int) -> ValueError:
    return ValueError(
        f"a recorded step evaluates all {num} directions at once, as the step before it did, but this one would "
        "take too much memory: take fewer directions or a smaller batch, or call optimizer.step."
    )


class _Runs(NamedTuple):
    """Runs of one closure, along some directions each.

    Attributes:
        base_pass: Of the closure.
        params: The trained parameters in the order of their ids.
        whole: The directions of the whole step.
        evaluation: ε and what else says how to evaluate.
        part: Which part of the batch this is.
    """

    base_pass: BasePass
    params: list[Tensor]
    whole: Directions
    evaluation: Evaluation
    part: int

    def evaluate(
        self, some: Directions, signed_eps: Tensor, plan: Plan, again: bool, more: bool, scouting: bool
    ) -> tuple[Tensor, Tensor, Nodes | None, Plan]:
        """Base value, differences, what is remembered of layers' outputs, and the plan with what was learned.

        Args:
            some: The directions of the run.
            signed_eps: [P] float32.
            plan: How to go about it.
            again: Look whether what is known of the layers still holds.
            more: Whether other directions will follow.
            scouting: The plan alone is wanted.

        Raises:
            RestartError: With another plan it would go.
        """
        known = plan.nodes
        nodes = None if known is None else self._nodes(known, some)
        with self._mode(some, signed_eps, self.evaluation.compute_dtype, plan, nodes) as mode:
            looks = known is not None and (again or not known.known)
            base, found = self.base_pass.run(mode, more or looks)
            if nodes is not None and known is not None and not engines.is_replayable():
                probe = partial(self._probe, some, plan, known)
                nodes.plan = settle(mode, nodes, self.whole, probe, again, scouting)
                plan = replace(plan, nodes=nodes.plan)
        return base, found, nodes, plan

    def _probe(self, some: Directions, plan: Plan, known: NodePlan, mask: Mask) -> Tensor:
        """Loss differences of a mask's noise alone, as many masks at once as there are directions in a chunk."""
        eps, found = self.evaluation.steps[0], []
        for kept in mask.kept.split(plan.chunk):
            directions = Directions(some.seed, some.step, len(kept), some.distribution)
            nodes = self._nodes(known, directions, Mask(kept, eps, mask.only))
            still = torch.zeros(len(kept), dtype=torch.float32, device=kept.device)
            with self._mode(directions, still, torch.float32, plan, nodes) as mode:
                found.append(self.base_pass.run(mode, more=True)[1])
        return torch.cat(found)

    def _nodes(self, known: NodePlan, some: Directions, mask: Mask | None = None) -> Nodes:
        shapes = [param.shape for param in self.params]
        return Nodes(known, shapes, some, APPLICATIONS * self.part, mask)

    @contextmanager
    def _mode(
        self, some: Directions, signed_eps: Tensor, dtype: torch.dtype, plan: Plan, nodes: Nodes | None
    ) -> Iterator[DifferenceMode]:
        """A mode that is closed at the end."""
        device = self.params[0].device
        budget = BUDGET_CPU if device.type == "cpu" else _memory_of(device) // SHARE_GPU
        mode = DifferenceMode(
            self.params, some, signed_eps, dtype, plan, budget, self.evaluation.strict, nodes
        )
        try:
            yield mode
        finally:
            mode.close()


@cache
def _memory_of(device: torch.device) -> int:
    """Bytes of a GPU."""
    return int(torch.cuda.get_device_properties(device).total_memory)


def _check_same(first: Tensor, again: Tensor) -> Tensor:
    """Refuses a closure that returns another value on the next chunk of directions."""
    if first.shape != again.shape or not torch.allclose(first, again, 1e-3, 1e-5, equal_nan=True):
        raise ValueError(
            f"the closure's value changed from {first} to {again} between two chunks of one step; it must "
            "use the same batch each time: draw the batch outside of it."
        )
    return first


def _signed_eps(num: int, steps: tuple[float, ...], scales: Tensor | None, device: torch.device) -> Tensor:
    """sε·scale of each evaluation, [K·sides] float32; the plus side stands first."""
    unscaled = engines.kept(_unscaled_eps(num, steps, device))
    if scales is None:
        return unscaled
    return unscaled * scales.to(device, torch.float32).repeat_interleave(len(steps))


@engines.remembered(maxsize=8)
def _unscaled_eps(num: int, steps: tuple[float, ...], device: torch.device) -> Tensor:
    return torch.tensor(steps, dtype=torch.float32, device=device).repeat(num)
