"""What zeroth-order optimizers share: a torch optimizer that measures its steps."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from inspect import unwrap
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from zo_triton._interrupts import check, held_back
from zo_triton.difference import Evaluation, Plan
from zo_triton.difference.arguments import check_apart, check_closure, check_parameters, parameter_list
from zo_triton.difference.exhaustion import explained
from zo_triton.difference.undo import on_failure, taken_back
from zo_triton.directions import Directions
from zo_triton.optim.aggregators import BOUNDED, Aggregator
from zo_triton.optim.checks import (
    check_along_directions,
    check_coefficients,
    check_low_precision,
    check_options,
    check_perturb,
    check_settings,
    default_distribution,
    warn_of_frozen,
)
from zo_triton.optim.descent import AlongDirections, Estimate, WrittenOut, forgetting
from zo_triton.optim.measure import Measurement, checked_measurement, measure
from zo_triton.optim.node_measure import NodeMeasurement, measure_nodes, start_plan
from zo_triton.optim.saved_state import (
    OWN,
    SAVED,
    SHOWN,
    UNSAVED,
    SavedPlan,
    check_groups_fit,
    check_tensors,
    copied_state,
    facts_of,
    loaded_plan,
    restore_precision,
    saved_plan,
    saved_settings,
    settings_in,
)
from zo_triton.optim.shield import shielded
from zo_triton.optim.step_log import StepLog, written_down

if TYPE_CHECKING:
    from zo_triton.difference.nodes import NodePlan
    from zo_triton.distributed import Ranks
    from zo_triton.distributed.agreement import Facts


class ZOOptimizer(torch.optim.Optimizer):
    """What zeroth-order optimizers share: a step's measurement, the count of steps, and what is saved of both.

    A kind of optimizer says how an estimate moves the weights: :meth:`_check_group` and :meth:`_prepared`.
    Its group options are those of torch's optimizer of that name.

    Args:
        params: Tensors, named tensors or parameter groups, as for any torch optimizer.
        defaults: The group options.
        ranks: Share each step's measuring among processes that all hold this optimizer.
        settings: All of :data:`.saved_state.SETTINGS`, which :class:`zo_triton.ZOSGD` describes.
    """

    seed: int
    directions: int
    eps: float
    distribution: str
    sides: int
    aggregator: str | Aggregator
    compute_dtype: torch.dtype
    rank: int | None
    rounds: int
    chunk: int | None
    strict: bool
    low_precision: str
    perturb: str
    steps_done: int
    last: Measurement | NodeMeasurement | None
    plan: SavedPlan | None
    log: StepLog | None

    def __init__(
        self, params: Iterable[Any], defaults: dict[str, Any], ranks: Ranks | None, **settings: Any
    ) -> None:
        if settings["distribution"] is None:
            settings["distribution"] = default_distribution(settings["perturb"])
        vars(self).update(settings)
        self.steps_done, self.last, self.plan, self.log = 0, None, None, None
        self._measured: Measurement | NodeMeasurement | None = None
        self._nodes: NodePlan | None = None
        self.ranks = ranks
        if ranks is not None:
            ranks.check_directions(self.directions)
        check_settings(vars(self))
        super().__init__(parameter_list(params), defaults)
        check_parameters(self._parameters(), self.next_directions())
        warn_of_frozen(self._parameters())

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds tensors with options of their own; their ids follow those of the groups before.

        Raises:
            TypeError: As in the constructor.
            ValueError: As in the constructor; the groups stay as they were.
        """
        # The wrapper that keeps torch's method from being compiled loads torch's compiler, which takes longer than
        # all the rest of a first step; where the compiler isn't loaded, nothing is being compiled.
        add = torch.optim.Optimizer.add_param_group
        (add if "torch._dynamo" in sys.modules else unwrap(add))(self, param_group)
        try:
            check_options(param_group, self.defaults, (*SAVED, *UNSAVED, "ranks"))
            self._check_group(self.param_groups[-1])
            names = [name for group in self.param_groups for name in group.get("param_names", ())]
            if params := self._parameters():  # a group may be empty, the first as well, but not all
                check_parameters(params, self.next_directions(), names)
                check_apart(params, names)
        except (TypeError, ValueError):
            self.param_groups.pop()
            raise
        self._checked_field = self.distribution, self.rank
        self._measured = None  # says nothing of these tensors

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
        with explained(), held_back(), torch.no_grad(), taken_back():
            if closure is not None:
                self.measure(closure)
                check()
            return self._take(self._measured)

    def _take(self, measurement: Measurement | NodeMeasurement | None) -> float:
        """Moves by what was measured, and lets go of it if that can't be moved by."""
        self._measured = None
        measurement = checked_measurement(measurement, self.next_directions(), self.compute_dtype)
        # Before the step is logged: a resumed run then goes about its next step as this one does.
        on_failure(partial(setattr, self, "plan", self.plan))
        self.plan = saved_plan(measurement.plan, self.directions)
        if isinstance(measurement, NodeMeasurement):
            self._move(WrittenOut(measurement.gradients))
            self._nodes = measurement.plan.nodes
        else:
            coefficients = measurement.coefficients(self._parameters(), self.aggregator)
            self._apply(coefficients, known_finite=self.aggregator in BOUNDED)
        self.last = measurement
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
        check_closure(closure)
        with explained(), held_back(), torch.no_grad(), taken_back():
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
        with explained(), held_back(), torch.no_grad():
            self._apply(coefficients, known_finite=False)

    def _apply(self, coefficients: Tensor, known_finite: bool) -> None:
        directions = self.next_directions()
        check_along_directions(self.perturb)
        check_coefficients(coefficients, directions, known_finite)
        self._check_move(directions)
        self._move(AlongDirections(coefficients, directions, self.compute_dtype))

    def _move(self, estimate: Estimate) -> None:
        """Moves the weights along an estimate, and counts the step."""
        coefficients = estimate.coefficients if isinstance(estimate, AlongDirections) else None
        with shielded(self._parameters()), forgetting(self.state):
            move = self._prepared(estimate)
            with written_down(self.log, coefficients):
                move()
                self.steps_done += 1

    def _check_group(self, group: Mapping[str, Any]) -> None:
        """Refuses a parameter group's options."""
        raise NotImplementedError

    def _prepared(self, estimate: Estimate) -> Callable[[], None]:
        """What moves the weights of all groups; what that keeps or needs is made here, before anything moves."""
        raise NotImplementedError

    def _check_move(self, directions: Directions) -> None:
        """Refuses settings that were changed to something no step can be made of."""
        check_low_precision(self.low_precision)
        for group in self.param_groups:
            self._check_group(group)
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
        return facts_of(self, {name: value for name, value in saved_settings(self).items() if name != "plan"})

    def _parameters(self) -> list[Tensor]:
        if len(self.param_groups) == 1:
            return self.param_groups[0]["params"]
        return [param for group in self.param_groups for param in group["params"]]

    def state_dict(self) -> dict[str, Any]:
        """Everything a run needs to go on bit for bit: torch's entries, and ``"zo"`` with the settings.

        Returns:
            A dictionary whose tensors are copies, so that later steps do not change it.
        """
        handle = self.register_state_dict_post_hook(
            _completed, prepend=True
        )  # the user's hooks find it complete
        try:
            return super().state_dict()
        finally:
            handle.remove()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes over a saved state; the tensors are copied and keep their precision.

        Args:
            state_dict: From :meth:`state_dict` of an optimizer with the same groups.

        Raises:
            TypeError: A saved setting has the wrong type.
            ValueError: It is no state of such an optimizer, its groups differ, or a setting is out of range:
                nothing has changed.
        """
        settings: dict[str, Any] = {}
        final: Mapping[str, Any] = {}

        def check(_: Any, state_dict: dict[str, Any]) -> None:
            nonlocal final
            final = state_dict
            settings.update(self._checked_state(state_dict))

        def finish(_: Any) -> None:
            restore_precision(self, final, self._parameters())
            vars(self).update(settings)
            self._checked_field = self.distribution, self.rank
            self.last = self._measured = self._nodes = None

        # The user's own hooks run around these two: what their pre-hooks return is checked and loaded, and their
        # post-hooks find all of it loaded.
        handles = [
            self.register_load_state_dict_pre_hook(check),
            self.register_load_state_dict_post_hook(finish, prepend=True),
        ]
        try:
            super().load_state_dict(state_dict)
        finally:
            for handle in handles:
                handle.remove()

    def _checked_state(self, state_dict: Mapping[str, Any]) -> dict[str, Any]:
        """The settings in a state that can be loaded; torch checks the groups' sizes itself."""
        settings = settings_in(state_dict, SAVED, self.aggregator)
        check_settings({**settings, "chunk": self.chunk, "strict": self.strict})
        check_groups_fit(state_dict["param_groups"], self.defaults)
        check_tensors(state_dict["state"])
        for group in state_dict["param_groups"]:
            self._check_group(group)
        field = Directions(0, 0, 1, settings["distribution"], 10, settings["rank"])
        check_parameters(self._parameters(), field)
        return settings

    def __getstate__(self) -> dict[str, Any]:
        own = {name: getattr(self, name) for name in (*SAVED, *UNSAVED, "_checked_field")}
        # A copy in another process belongs to no group of ranks.
        return {**super().__getstate__(), **own, **dict.fromkeys(OWN)}

    def __repr__(self) -> str:
        """Torch's, followed by what names a step's directions and says how they are measured."""
        saved = saved_settings(self)
        return super().__repr__()[:-1] + "".join(f"{name}: {saved[name]}\n" for name in SHOWN) + ")"


def _completed(optimizer: Any, saved: dict[str, Any]) -> dict[str, Any]:
    """What torch saves of an optimizer, with tensors of its own and with the settings."""
    return {**copied_state(saved), "zo": saved_settings(optimizer)}
