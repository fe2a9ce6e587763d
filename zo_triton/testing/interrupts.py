"""Ctrl-C at any line of a step: it has happened wholly or not at all, and the next is as if nothing was."""

from __future__ import annotations

import random
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from zo_triton.testing.errors import ConformanceError, NotApplicable
from zo_triton.testing.observe import build, check_finite, global_seeds
from zo_triton.testing.problem import Closure, Problem, flat, make_network
from zo_triton.testing.subject import DEFAULT, Factory, Optimizer, Setting

_DEFECT = "an interrupt leaves a step half done"
_REMEDY = (
    "While weights are moved or put back let a handler of your own take note of SIGINT (signal.signal, in the main "
    "thread), and hear it when the step is whole; a finally can itself be interrupted"
)


class Interrupter:
    """Raises SIGINT at one line event of a block, in any frame; counts them if that is never reached.

    Args:
        at: Which event, from 1; None only counts.

    Attributes:
        seen: Events so far.
        place: File and line of the interrupt; None before it.
    """

    def __init__(self, at: int | None = None) -> None:
        self.at, self.seen = at, 0
        self.place: str | None = None
        self._before: Any = None

    def __enter__(self) -> Interrupter:
        self._before = sys.gettrace()
        sys.settrace(self._trace)
        return self

    def __exit__(self, *error: object) -> None:
        sys.settrace(self._before)

    def _trace(self, frame: FrameType, event: str, argument: object) -> Any:
        if frame.f_code is Interrupter.__exit__.__code__ or self.place is not None:
            return None
        if event == "line":
            self.seen += 1
            if self.seen == self.at:
                self.place = f"{frame.f_code.co_filename}:{frame.f_lineno}"
                sys.settrace(None)
                signal.raise_signal(signal.SIGINT)
        return self._trace


def interrupts_leave_a_step_whole(factory: Factory, setting: Setting = DEFAULT) -> None:
    """An interrupted step leaves the weights as before it or as after it, and the next one goes on from there.

    Real signals come at a sample of the lines that a step runs, each in an optimizer of its own.

    Args:
        factory: Makes the optimizer under test.
        setting: Supplies ε, the learning rate and the number of lines.

    Raises:
        ConformanceError: Weights lie elsewhere or are not finite, the interrupt is lost or comes out as another
            error, or the next step fails or goes elsewhere.
        NotApplicable: Signals do not arrive in this thread, or the weights do not move.
    """
    if threading.current_thread() is not threading.main_thread():
        raise NotApplicable("signals arrive in the main thread alone")
    with _heard(), global_seeds(1):
        optimizer, problem = _begun(factory, setting)
        states = [flat(problem.params)]
        for _ in range(2):
            optimizer.step(Closure(problem))
            states.append(check_finite(flat(problem.params), "without an interrupt"))
        if torch.equal(states[0], states[1]):
            raise NotApplicable("the weights did not move")
        optimizer, problem = _begun(factory, setting)
        with Interrupter() as counter:
            optimizer.step(Closure(problem))
        lines = range(1, counter.seen + 1)
        for at in random.Random(0).sample(lines, min(setting.interrupts, len(lines))):
            _check(factory, setting, states, at)


@contextmanager
def _heard() -> Iterator[None]:
    """SIGINT raises KeyboardInterrupt, also in a shell's background job, which would ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _begun(factory: Factory, setting: Setting) -> tuple[Optimizer, Problem]:
    torch.manual_seed(1)
    problem = make_network()
    return build(factory, problem.params, setting.lr, setting.eps, 1), problem


def _check(factory: Factory, setting: Setting, states: list[Tensor], at: int) -> None:
    """Interrupts one step at one of its lines, and takes the next."""
    optimizer, problem = _begun(factory, setting)
    with Interrupter(at) as interrupter:
        try:
            optimizer.step(Closure(problem))
        except KeyboardInterrupt:
            pass
        except BaseException as error:
            if interrupter.place is None:
                raise
            raise ConformanceError(
                _DEFECT,
                f"one at {interrupter.place} came out as {type(error).__name__}: {error}",
                "Let KeyboardInterrupt pass, or raise it again: nobody else knows another error for Ctrl-C",
            ) from error
        else:
            if interrupter.place is not None:
                raise ConformanceError(_DEFECT, f"one at {interrupter.place} was lost", _REMEDY)
    found = flat(problem.params)
    taken = next((number for number in range(2) if torch.equal(found, states[number])), None)
    if taken is None:
        odd = int(((found != states[0]) & (found != states[1])).sum())
        raise ConformanceError(
            _DEFECT,
            f"after one at {interrupter.place}, {odd} of {len(found)} weights are neither as before the step nor "
            "as after it",
            _REMEDY,
        )
    try:
        optimizer.step(Closure(problem))
    except (Exception, SystemExit) as error:
        raise ConformanceError(
            _DEFECT, f"after one at {interrupter.place} the next fails: {error}", _REMEDY
        ) from error
    if not torch.equal(flat(problem.params), states[taken + 1]):
        raise ConformanceError(
            _DEFECT, f"after one at {interrupter.place} the next goes another way than without it", _REMEDY
        )
