"""A whole zeroth-order step as a CUDA graph: recorded once, replayed without Python between its kernels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from zo_triton import ops
from zo_triton.difference import propagate
from zo_triton.ops import engines
from zo_triton.optim.aggregators import get_aggregator
from zo_triton.optim.black_box import BlackBox
from zo_triton.optim.checks import LARGEST_SLOPE
from zo_triton.optim.descent import AlongDirections, Estimate, WrittenOut, descend, make_state
from zo_triton.optim.node_measure import gradient_of, usable_samples
from zo_triton.optim.recorded_state import RecordedState, check_unlogged
from zo_triton.optim.sgd import ZOSGD

REPLAYABLE = ("average", "normalized", "best")
"""Aggregators whose work is the same whatever the slopes; the others sort them or solve for them on the host."""

WARM_UPS = 2
"""Steps before the recording, in which the kernels are compiled."""


class CapturedStep:
    """Steps of a :class:`ZOSGD` replayed from a CUDA graph.

    A small model's step is bound by the time that Python takes to launch its kernels; a graph launches them all at
    once. Directions, weights and momentum are those of :meth:`ZOSGD.step` to rounding. The step's number and the
    learning rates lie on the device, and nothing waits for the device.

    The closure runs only while this is made. A replay reads what it read where that lies: write each batch into
    the same tensors (``x.copy_(batch)``). Settings other than ``lr`` are recorded as they are, and once one has
    changed, a replay is refused. After ordinary steps or ``load_state_dict`` the next replay goes on from there.

    A step whose loss or differences are not all finite adds nothing to the weights (weight decay and the momentum
    of earlier steps go on) and is counted in ``skipped``, because nobody is there to raise an error.

    Args:
        optimizer: Whose steps; all its parameters on one GPU. Three real steps are taken while this is made.
        closure: Takes nothing, returns the loss as a scalar tensor, without reading values back from the device.

    Attributes:
        loss: The base loss of the latest step, 0-dim, on the device; the next one overwrites it.
        skipped: Steps that were not finite, 0-dim int64 on the device.

    Raises:
        TypeError: ``optimizer`` is no ZOSGD.
        ValueError: The parameters are not on a GPU, the optimizer has a log or shares its measuring with other
            processes, the aggregator or the closure can't be recorded, or all directions don't fit at once.

    Example:
        >>> import torch, zo_triton as zo
        >>> if torch.cuda.is_available():
        ...     w, x = torch.zeros(3, device="cuda"), torch.ones(3, device="cuda")
        ...     step = zo.CapturedStep(zo.ZOSGD([w], lr=0.1, directions=8), lambda: (w - x).square().sum())
        ...     for _ in range(100):
        ...         loss = step()
    """

    loss: Tensor
    skipped: Tensor

    def __init__(self, optimizer: ZOSGD, closure: Callable[[], Tensor]) -> None:
        if not isinstance(optimizer, ZOSGD):
            raise TypeError(f"a captured step needs a zo.ZOSGD, got {type(optimizer).__name__}.")
        device = optimizer._parameters()[0].device
        if device.type != "cuda":
            raise ValueError(
                f"CUDA graphs need parameters on a GPU, got {device}; call optimizer.step, or on a "
                "CPU zo.FusedTrainer."
            )
        self._prepare(optimizer, closure)
        stream = torch.cuda.Stream(device)
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):
            for _ in range(WARM_UPS):
                self._run()
                self._state.count()
        torch.cuda.current_stream(device).wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(device), torch.cuda.graph(self._graph):
            # Recording runs no kernel: this step is not taken.
            self._run()

    def __call__(self) -> Tensor:
        """Takes one step.

        Returns:
            The base loss before the move: :attr:`loss`.

        Raises:
            ValueError: A setting other than ``lr`` has changed, the parameters are others or lie elsewhere, or
                a log was attached: nothing has happened.
        """
        self._state.refresh()
        self._graph.replay()
        self._state.count()
        return self.loss

    def _prepare(self, optimizer: ZOSGD, closure: Callable[[], Tensor]) -> None:
        """Takes one ordinary step, which settles the plan, and puts on the device what replays read there."""
        check_unlogged(optimizer)
        if optimizer.ranks is not None:
            raise ValueError(
                "the measuring is shared among processes, for which a graph can't wait; leave ranks out, or call "
                "optimizer.step."
            )
        if optimizer.aggregator not in REPLAYABLE:
            raise ValueError(
                f"aggregator {optimizer.aggregator!r} can't be replayed; choose one of {REPLAYABLE}, or call "
                "optimizer.step."
            )
        if isinstance(closure, BlackBox):
            raise ValueError(
                "a BlackBox is evaluated on the host and can't be replayed; call optimizer.step."
            )
        strict, optimizer.strict = optimizer.strict, True
        try:
            optimizer.step(closure)
        finally:
            optimizer.strict = strict
        assert optimizer.last is not None
        plan = optimizer.last.plan
        if plan is None or plan.chunk < optimizer.directions:
            raise ValueError(
                "a step can be replayed only if all its directions are evaluated at once, as tensors; take "
                f"fewer than {optimizer.directions} or a smaller batch, or call optimizer.step."
            )
        self.optimizer, self.closure, self._plan = optimizer, closure, plan
        device = optimizer._parameters()[0].device
        self._state = RecordedState(optimizer)
        self.loss = torch.zeros((), dtype=torch.float32, device=device)
        self.skipped = torch.zeros((), dtype=torch.int64, device=device)

    @torch.no_grad()
    def _run(self) -> None:
        """What is recorded: measure, aggregate, move, count."""
        optimizer = self.optimizer
        params, directions = optimizer._parameters(), optimizer.next_directions()
        with engines.replayable(self._state.number) as self._kept:
            scales = ops.direction_scales(params, range(len(params)), directions, optimizer.compute_dtype)
            evaluation = replace(optimizer.evaluation, strict=True)
            loss, found, _, nodes = propagate(
                self.closure, params, directions, evaluation, scales, self._plan
            )
            slopes = evaluation.slopes(found)
            if nodes is None:
                usable = (slopes.abs() < LARGEST_SLOPE).all() & loss.isfinite().all()
                coefficients = get_aggregator(optimizer.aggregator)(slopes, _no_gram)
                if scales is not None:
                    coefficients = coefficients * scales
                coefficients = torch.where(usable, coefficients, torch.zeros_like(coefficients))
                estimate: Estimate = AlongDirections(coefficients, directions, optimizer.compute_dtype)
            else:
                of_samples = usable_samples(slopes)
                usable = of_samples.all() & loss.isfinite().all()
                kept = of_samples & loss.isfinite().all()
                estimate = WrittenOut(gradient_of(params, nodes, directions, slopes, kept, evaluation))
            stochastic = optimizer.low_precision == "stochastic"
            words = directions if stochastic else None
            scratch = make_state(optimizer.param_groups, optimizer.state, estimate, stochastic)
            first_id = 0
            for group, rate in zip(optimizer.param_groups, self._state.rates, strict=True):
                descend(
                    group["params"], first_id, optimizer.state, rate, group["momentum"], group["weight_decay"],
                    estimate.negated() if group["maximize"] else estimate, scratch, words,
                )  # fmt: skip
                first_id += len(group["params"])
            self.loss.copy_(loss.mean())
            self.skipped.add_(~usable)
            self._state.number.add_(1)


def _no_gram() -> Tensor:
    raise AssertionError("a replayable aggregator needs no Gram matrix")
