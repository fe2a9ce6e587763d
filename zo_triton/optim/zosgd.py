"""Zeroth-order stochastic gradient descent as a torch optimizer."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from zo_triton._interrupts import check, held_back
from zo_triton.difference import Evaluation, Plan
from zo_triton.difference.arguments import check_apart, check_parameters
from zo_triton.difference.undo import taken_back
from zo_triton.directions import Directions
from zo_triton.optim.checks import (
    check_along_directions,
    check_coefficients,
    check_group,
    check_low_precision,
    check_perturb,
    check_settings,
    default_distribution,
    warn_of_frozen,
)
from zo_triton.optim.descent import (
    AlongDirections,
    Estimate,
    WrittenOut,
    descend,
    forgetting,
    make_state,
)
from zo_triton.optim.measure import Measurement, checked_measurement, measure
from zo_triton.optim.node_measure import NodeMeasurement, measure_nodes, start_plan
from zo_triton.optim.saved_state import (
    OWN,
    SAVED,
    UNSAVED,
    copied_state,
    facts_of,
    loaded_plan,
    restore_precision,
    saved_plan,
    settings_in,
)
from zo_triton.optim.shield import shielded
from zo_triton.optim.step_log import StepLog, written_down

if TYPE_CHECKING:
    from zo_triton.difference.nodes import NodePlan
    from zo_triton.distributed import Ranks
    from zo_triton.distributed.agreement import Facts


class ZOSGD(torch.optim.Optimizer):
    """SGD on a zeroth-order gradient estimate: forward passes only.

    A step draws K fresh directions z_k, measures the loss differences L(θ+εz_k) - L(θ), and descends
    ĝ = Σ_k a_k·z_k by the rule of :class:`torch.optim.SGD`: g = ĝ + λθ, v ← μv + g, θ ← θ - ηv. No ``.grad``
    is read or written. Without momentum the weights are updated in place, all K directions in one pass, and
    nothing of the parameters' size is stored.

    Every parameter passed is trained, also with ``requires_grad=False``: no autograd takes part. For adapters in
    a frozen model pass ``[p for p in model.parameters() if p.requires_grad]``. A
    parameter's place in the groups, all in order, is its id in the field. float16 and bfloat16 parameters
    keep a float32 master copy in the state, in which small updates add up; if a parameter was overwritten
    from outside (``model.load_state_dict``), its new value is taken over. With ``low_precision="stochastic"``
    there is no copy: the moved weight is rounded up or down at random, right in the mean, and reproducibly.

    ``lr``, ``momentum`` and ``weight_decay`` belong to each parameter group, so torch's schedulers work; the
    other settings are attributes and may be changed between steps. The state dict holds them and the
    number of steps done, so a reloaded run goes on with the same directions. Only ``chunk`` and ``strict``
    are left out: they belong to the machine, and change a difference by rounding at most.

    If the closure raises, or the loss is NaN or infinite
    (:class:`zo_triton.NonFiniteLossError`), the step has not happened: weights,
    state, ``steps_done`` and torch's random state are as they were. If memory runs out while directions are
    evaluated, half as many are tried at once; if one is still too many, MemoryError, and nothing has happened.

    Args:
        params: Tensors, named tensors or parameter groups, as for any torch optimizer.
        lr: Learning rate η, not negative.
        directions: K, directions a step.
        eps: Smoothing radius ε.
        seed: Key of the noise, in [0, 2**64).
        distribution: rademacher, gaussian, uniform, laplace, sphere or hadamard; None is rademacher for weights and
            hadamard for activations.
        sides: 1 for L(θ+εz) - L(θ), 2 for central differences.
        aggregator: average, normalized, ranked, best or align.
        momentum: μ in [0, 1).
        weight_decay: λ, not negative.
        compute_dtype: Dtype of the differences, float32 or bfloat16.
        rank: Perturb matrices by A·Bᵀ/√rank; None for full rank.
        rounds: Philox rounds, 10 or 7.
        chunk: Directions evaluated at once; None chooses.
        strict: Refuse functions without an exact difference rule instead of warning.
        low_precision: How float16 and bfloat16 parameters are updated: "master" or "stochastic".
        ranks: Share each step's measuring among processes that all hold this optimizer.
        perturb: "weights"; "activations": signs on layers' outputs, each sample measured by its own loss; "auto":
            each layer where it costs less. See :func:`zo_triton.estimate_gradient` for what the closure must
            return.

    Attributes:
        steps_done: Successful steps, the ``step`` of the directions drawn next.
        last: The :class:`Measurement` of the latest step, or the :class:`NodeMeasurement` of one that perturbed
            activations; None before the first.
        plan: How the latest step was cut up: K, the chunk, the layers that keep their input's memory, and whether
            the base pass is recorded where there are several chunks.
        log: Gets each step's coefficients before the weights move, as :class:`zo_triton.ReplayLog` does when it is
            attached; None if nothing does. Copies of the optimizer have none.

    Raises:
        TypeError: A parameter is not of a real floating type, or a count is no integer.
        ValueError: A setting is out of range, parameters lie on several devices, or the field can't address
            one of them.

    Warns:
        UserWarning: Some of the parameters have ``requires_grad=False`` and others do not.

    Example:
        >>> import torch, zo_triton as zo
        >>> w = torch.tensor([1.0, -2.0])
        >>> opt = zo.ZOSGD([w], lr=0.1, directions=8, seed=0)
        >>> loss = opt.step(lambda: w.square().sum())
    """

    steps_done: int
    last: Measurement | NodeMeasurement | None
    plan: tuple[int, int, list[int], bool] | None
    log: StepLog | None

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        directions: int = 64,
        eps: float = 1e-4,
        seed: int = 0,
        distribution: str | None = None,
        sides: int = 1,
        aggregator: str = "average",
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        compute_dtype: torch.dtype = torch.float32,
        rank: int | None = None,
        rounds: int = 10,
        chunk: int | None = None,
        strict: bool = False,
        low_precision: str = "master",
        ranks: Ranks | None = None,
        perturb: str = "weights",
    ) -> None:
        self.perturb = perturb
        self.distribution = default_distribution(perturb) if distribution is None else distribution
        self.seed, self.directions, self.eps = seed, directions, eps
        self.sides, self.aggregator, self.compute_dtype = sides, aggregator, compute_dtype
        self.rank, self.rounds, self.chunk, self.strict = rank, rounds, chunk, strict
        self.low_precision = low_precision
        self.steps_done, self.last, self.plan, self.log = 0, None, None, None
        self._measured: Measurement | NodeMeasurement | None = None
        self._nodes: NodePlan | None = None
        self.ranks = ranks
        if ranks is not None:
            ranks.check_directions(directions)
        check_settings(vars(self))
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        check_parameters(self._parameters(), self.next_directions())
        warn_of_frozen(self._parameters())

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds tensors with options of their own; their ids follow those of the groups before.

        Raises:
            TypeError: As in the constructor.
            ValueError: As in the constructor; the groups stay as they were.
        """
        super().add_param_group(param_group)
        try:
            check_group(self.param_groups[-1])
            names = [name for group in self.param_groups for name in group.get("param_names", ())]
            if params := self._parameters():  # a group may be empty, the first as well, but not all
                check_parameters(params, self.next_directions(), names)
                check_apart(params, names)
        except (TypeError, ValueError):
            self.param_groups.pop()
            raise
        self._checked_field = self.distribution, self.rank

    def register_step_pre_hook(self, hook: Any) -> RemovableHandle:
        """As torch's, but refused while a log is attached: the hook would run before the step can be refused.

        Raises:
            ValueError: A log is attached.
        """
        if self.log is not None:
            raise ValueError(
                f"a step pre-hook may change weights, which the log {self.log.path} would not hold; do its work "
                "between the steps, or close the log."
            )
        return super().register_step_pre_hook(hook)

    def next_directions(self) -> Directions:
        """The directions that the next step walks.

        Raises:
            ValueError: The settings name none, for instance after 2**32 steps.
        """
        directions = Directions(
            self.seed, self.steps_done, self.directions, self.distribution, self.rounds, self.rank
        )
        return directions.over(param.shape for param in self._parameters())

    @property
    def evaluation(self) -> Evaluation:
        """How the next step measures.

        Raises:
            TypeError: ``eps`` is no number.
            ValueError: A setting is out of range.
        """
        return Evaluation(self.eps, self.sides, self.compute_dtype, self.chunk, self.strict)

    def step(self, closure: Callable[[], Any] | None = None) -> float:  # type: ignore[override]
        """Measures the loss along fresh directions and moves the weights.

        Args:
            closure: Takes nothing, computes the loss from the parameters and returns it: a scalar tensor, or
                anything numeric in a :class:`zo_triton.optim.BlackBox`. Called without autograd. None moves by
                what :meth:`measure` has found.

        Returns:
            The base loss, before the move.

        Raises:
            MemoryError: Not even one direction at a time fits in memory.
            TypeError: The closure returned neither a tensor nor a number.
            NonFiniteLossError: The loss is NaN or infinite, or every direction's difference is.
            ValueError: There is no closure and nothing was measured, the loss is no scalar, or a setting is out of
                range.

        Warns:
            RuntimeWarning: Some directions' differences were not finite and have been left out, or memory ran
                out and fewer directions were evaluated at once.
        """
        with held_back(), torch.no_grad(), taken_back():
            if closure is not None:
                self.measure(closure)
                check()
            return self._take(self._measured)

    def _take(self, measurement: Measurement | NodeMeasurement | None) -> float:
        """Moves by what was measured, and lets go of it if that can't be moved by."""
        self._measured = None
        measurement = checked_measurement(measurement, self.next_directions(), self.compute_dtype)
        if isinstance(measurement, NodeMeasurement):
            self._move(WrittenOut(measurement.gradients))
            self._nodes = measurement.plan.nodes
        else:
            self.apply(measurement.coefficients(self._parameters(), self.aggregator))
        self.plan, self.last = saved_plan(measurement.plan, self.directions), measurement
        return measurement.loss

    def measure(self, closure: Callable[[], Any]) -> float:
        """The first half of :meth:`step`, for training loops that ask for the loss and move later, without closure.

        Moves nothing. ``opt.measure(closure)`` and ``opt.step()`` are ``opt.step(closure)``, as long as neither
        weights nor settings change in between; measuring again replaces what was measured.

        Args:
            closure: As for :meth:`step`, which raises and warns of the same.

        Returns:
            The base loss.
        """
        with held_back(), torch.no_grad(), taken_back():
            self._measured = None
            if self.log is not None:
                self.log.check()
            self._measured = self._measurement(closure)
        return self._measured.loss

    def _measurement(self, closure: Callable[[], Any]) -> Measurement | NodeMeasurement:
        params, directions, evaluation = self._parameters(), self.next_directions(), self.evaluation
        self._check_move(directions)
        if self.ranks is not None:
            self.ranks.check(self._facts)
        plan = self._plan()
        if self.perturb == "weights":
            return measure(closure, params, directions, evaluation, plan, self.ranks)
        check_perturb(self.perturb, self.distribution, self.rank, self.aggregator)
        assert plan is not None
        return measure_nodes(closure, params, directions, evaluation, plan, self.ranks)

    def apply(self, coefficients: Tensor) -> None:
        """Moves the weights along the next directions: the second half of :meth:`step`, which has no other effect.

        What happens depends on the weights, the state, ``steps_done``, the settings and the coefficients alone.
        With Rademacher signs at full rank every engine and device writes the same bits.

        Args:
            coefficients: a_k of ĝ = Σ_k a_k·z_k, [K] float32, scales included: what
                :meth:`Measurement.coefficients` gives.

        Raises:
            TypeError: They are no float32 tensor.
            ValueError: There are not K of them, one is not finite, a setting is out of range, or activations are
                perturbed, whose gradient no K numbers hold.
            OSError: The log can't be written; the step has not happened then.
        """
        with held_back(), torch.no_grad():
            directions = self.next_directions()
            check_along_directions(self.perturb)
            check_coefficients(coefficients, directions)
            self._check_move(directions)
            self._move(AlongDirections(coefficients, directions, self.compute_dtype))

    def _move(self, estimate: Estimate) -> None:
        """Moves the weights along an estimate, and counts the step."""
        stochastic = self.low_precision == "stochastic"
        words = self.next_directions() if stochastic else None
        first_id = 0
        with shielded(self._parameters()), forgetting(self.state):
            scratch = make_state(self.param_groups, self.state, estimate, stochastic)
            with written_down(
                self.log, estimate.coefficients if isinstance(estimate, AlongDirections) else None
            ):
                for group in self.param_groups:
                    descend(
                        group["params"], first_id, self.state, float(group["lr"]), group["momentum"],
                        group["weight_decay"], estimate, scratch, words,
                    )  # fmt: skip
                    first_id += len(group["params"])
                self.steps_done += 1

    def _check_move(self, directions: Directions) -> None:
        """Refuses settings that were changed to something no step can be made of."""
        check_low_precision(self.low_precision)
        for group in self.param_groups:
            check_group(group)
        if self._checked_field != (self.distribution, self.rank):
            check_parameters(self._parameters(), directions)
            self._checked_field = self.distribution, self.rank

    def _plan(self) -> Plan | None:
        """The latest step's plan; it is saved as well: another chunk size would round differences otherwise."""
        plan = loaded_plan(self.plan, self.directions)
        if self.perturb == "weights":
            return plan
        first = start_plan(self.perturb, self.directions)
        return replace(plan or first, nodes=self._nodes or first.nodes)

    def _facts(self) -> Facts:
        """What the ranks must have in common."""
        return facts_of(self, {name: getattr(self, name) for name in SAVED if name != "plan"})

    def _parameters(self) -> list[Tensor]:
        if len(self.param_groups) == 1:
            return self.param_groups[0]["params"]
        return [param for group in self.param_groups for param in group["params"]]

    def state_dict(self) -> dict[str, Any]:
        """Everything a run needs to go on bit for bit: torch's entries, and ``"zo"`` with the settings.

        Returns:
            A dictionary whose tensors are copies, so that later steps do not change it.
        """
        saved = copied_state(super().state_dict())
        return {**saved, "zo": {name: getattr(self, name) for name in SAVED}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes over a saved state; the tensors are copied and keep their precision.

        Args:
            state_dict: From :meth:`state_dict` of an optimizer with the same groups.

        Raises:
            TypeError: A saved setting has the wrong type.
            ValueError: It is no state of a ZOSGD, its groups differ, or a setting is out of range: nothing
                has changed.
        """
        settings = settings_in(state_dict, SAVED)
        check_settings({**settings, "chunk": self.chunk, "strict": self.strict})
        for group in state_dict["param_groups"]:
            check_group(group)
        params = self._parameters()
        check_parameters(params, Directions(0, 0, 1, settings["distribution"], 10, settings["rank"]))
        super().load_state_dict(state_dict)
        restore_precision(self, state_dict, params)
        vars(self).update(settings)
        self._checked_field = self.distribution, self.rank
        self.last = self._measured = self._nodes = None

    def __getstate__(self) -> dict[str, Any]:
        own = {name: getattr(self, name) for name in (*SAVED, *UNSAVED, "_checked_field")}
        # A copy in another process belongs to no group of ranks.
        return {**super().__getstate__(), **own, **dict.fromkeys(OWN)}
