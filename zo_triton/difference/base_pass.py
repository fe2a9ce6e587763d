"""The closure's base pass: run for the first chunk of directions, and if it can be, replayed for the others."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import handle_torch_function

from zo_triton._interrupts import listening, unbroken
from zo_triton.difference.errors import NotATensorError
from zo_triton.difference.mode import DifferenceMode
from zo_triton.difference.module_state import ModuleState
from zo_triton.difference.plan import RestartError
from zo_triton.difference.random_state import RandomState
from zo_triton.difference.tape import MismatchError, Recorder, Tape
from zo_triton.difference.undo import on_failure
from zo_triton.difference.watch import Watch, uncompiled
from zo_triton.difference.written import Written

TAPE_CPU = 2**28
"""Bytes of base results that a tape may keep alive on a CPU."""

TAPE_GPU = 2**31
"""The same on a GPU."""


class StartState(NamedTuple):
    """What a run of the closure changes beside the tensors that it writes: torch's random state, and modules."""

    random: RandomState
    modules: ModuleState

    @staticmethod
    def capture(closure: Callable[[], Any], device: torch.device) -> StartState:
        """The state now."""
        return StartState(RandomState.capture(device), ModuleState(closure))

    def restore(self) -> None:
        """Puts it back."""
        self.random.restore()
        self.modules.restore()


class BasePass:
    """Base value and differences of a closure, chunk after chunk of directions.

    As a context it puts everything back that the closure changed, if its block raises.

    Args:
        closure: Takes no argument, returns a tensor.
        start: The state before the first run; None where there is only one run.
        device: Of the parameters.
    """

    def __init__(self, closure: Callable[[], Any], start: StartState | None, device: torch.device) -> None:
        self._closure = closure
        self._start = start
        self._budget = TAPE_CPU if device.type == "cpu" else TAPE_GPU
        self._written: Written | None = None
        self._recorder: Recorder | None = None
        self._tape: Tape | None = None
        self._functions = 0

    def __enter__(self) -> BasePass:
        return self

    def __exit__(self, error: Any, *_: Any) -> None:
        self.forget()
        if error is not None:
            self._take_back()
        else:
            on_failure(self._take_back)

    def _take_back(self) -> None:
        self._rewind()
        if self._start is not None:
            self._start.restore()

    def run(self, mode: DifferenceMode, more: bool) -> tuple[Tensor, Tensor]:
        """Base value, and differences [P, *shape] float32 along the mode's directions.

        Args:
            mode: A fresh one.
            more: Whether other directions will follow.

        Raises:
            RestartError: With another plan it would go.
        """
        if self._tape is not None:
            try:
                self._tape.replay(mode)
            except MismatchError:
                self.forget()
                raise RestartError(replace(mode.plan, taped=False)) from None
            if mode.nodes is not None:
                mode.nodes.functions = self._functions
            return _found(mode, self._tape.value)
        announced: AbstractContextManager[None] = nullcontext()
        if self._written is not None:
            assert self._start is not None, "what is replayable evaluates all directions at once"
            self._rewind()
            self._start.restore()
            announced = self._start.modules.unreached_announced()
        self._written = mode.written
        self._recorder = mode.tape = Recorder(self._budget) if more and mode.plan.taped else None
        with announced:
            value = _run_watched(self._closure, mode)
        if not isinstance(value, Tensor):
            raise NotATensorError(value)
        found = _found(mode, value)
        if mode.nodes is not None:
            self._functions = mode.nodes.functions
        if self._recorder is not None:
            if mode.written.changed_unseen():
                self._recorder.give_up("an array was changed that shares its memory with a tensor")
            self._tape = self._recorder.finished(value)
        return found

    def forget(self) -> bool:
        """Lets go of the record, so that the next run is one of the closure itself; whether there was any."""
        recorder, self._recorder, self._tape = self._recorder, None, None
        return recorder is not None and recorder.lost is None

    def _rewind(self) -> None:
        if self._written is not None:
            with torch.no_grad():
                self._written.undo()
            self._written = None


def _found(mode: DifferenceMode, value: Tensor) -> tuple[Tensor, Tensor]:
    """What the closure's value and its difference are.

    Raises:
        ValueError: It is complex, or depends on no parameter.
    """
    difference = mode.difference(value)
    if value.is_complex():
        raise ValueError(
            f"the closure returned a tensor of {value.dtype}, but a loss is real; return its .abs() or .real."
        )
    if difference is None:
        if not mode.used:
            raise ValueError(
                f"the closure used none of the {len(mode.params)} trained parameters; pass the parameters of "
                "the model that it runs."
            )
        raise ValueError(
            "the closure's value carries no difference: the trained parameters reach it only through "
            "comparisons, argmax, integers or Python numbers; return a loss that depends on them through "
            "torch functions, or wrap the closure in zo.BlackBox to evaluate it direction by direction."
        )
    if mode.nodes is not None:
        difference = mode.nodes.close(mode, value)
    return value.clone() if mode.written.holds(value) else value.detach(), difference.float()


# It takes the mode off torch's stack by a generator, which would put it back long after an interrupt.
unbroken(handle_torch_function)


NEW_SUBCLASS = "Creating a new Tensor subclass"
"""How torch's error begins where ``C(…)`` meets a dispatcher that Python watches."""

REMEDY_OF_SUBCLASS = (
    "torch can't call a subclass of Tensor, such as CausalBias, while its operations are watched: make it before "
    "the closure runs, write tensor.as_subclass(C) instead, or wrap the closure in zo.BlackBox."
)


def _run_watched(closure: Callable[[], Any], mode: DifferenceMode) -> Any:
    """What the closure returns, run under the mode; refuses code that the mode can't see."""
    with uncompiled(), Watch(mode) as watch:
        mode.watch = watch
        try:
            with mode:
                value = listening(closure)
        except Exception as error:
            if watch.refused is None:
                if isinstance(error, RuntimeError) and str(error).startswith(NEW_SUBCLASS):
                    raise TypeError(f"{error}. {REMEDY_OF_SUBCLASS}") from error
                raise
        finally:
            mode.watch = None  # neither keeps the other alive
        if watch.refused is not None:
            raise watch.refused
        return value
