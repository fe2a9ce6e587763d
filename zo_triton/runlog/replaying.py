"""The weights of any step, made again from those of the beginning and the log: no loss is evaluated."""

from __future__ import annotations

import os
from collections.abc import Mapping

import torch
from torch import Tensor

from zo_triton import ops
from zo_triton.optim.gradient_step import GradientStep
from zo_triton.runlog.contents import Contents, read
from zo_triton.runlog.recipe import Replayable, named_parameters, rebuild, take_settings
from zo_triton.runlog.weights import check_digest


def replay(
    log: str | os.PathLike[str] | Contents,
    weights: Mapping[str, Tensor],
    steps: int | None = None,
) -> dict[str, Tensor]:
    """Takes a log's steps again.

    The result is bit for bit what the run's weights were, on the engine that the run used; for full-rank
    Rademacher directions and :class:`zo_triton.ZOSGD` on any engine and device. Other distributions differ
    between engines by rounding, and so may Adam's square roots between processors.

    Args:
        log: A log's path, or its contents.
        weights: The tensors from which the run began, by name; others than the trained ones are passed on.
        steps: How many to take; None takes all.

    Returns:
        New tensors by name.

    Raises:
        OSError: The log can't be read.
        RuntimeError: A step needs an engine that is not there.
        ValueError: The log is damaged, the weights are not those that the run began with, or it has fewer steps.
    """
    contents = log if isinstance(log, Contents) else read(log)
    copies = check_weights(contents, weights)
    target = rebuild(contents.header, copies)
    stop = None if steps is None else contents.first_step + _checked_steps(contents, steps)
    catch_up(target, contents, stop)
    return {**{name: tensor.detach().clone() for name, tensor in weights.items()}, **named_parameters(target)}


def check_weights(contents: Contents, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies of the trained tensors in the order of their ids.

    Raises:
        ValueError: One is missing, or they are not those with which the run began.
    """
    missing = [name for name in contents.shapes if name not in weights]
    if missing:
        raise ValueError(
            f"the log trains {missing[0]!r}, which is not among the weights {tuple(weights)[:8]}; give those with "
            "which the run began."
        )
    copies = {name: weights[name].detach().clone() for name in contents.shapes}
    check_digest(copies, contents.header["weights"])
    return copies


@torch.no_grad()
def catch_up(target: Replayable, contents: Contents, stop: int | None = None) -> None:
    """Takes the steps that an optimizer has not done yet, up to the log's end or to ``stop``.

    Args:
        target: At any step of the log, with the weights and the state that it had then.
        contents: The log.
        stop: The step before which to stop.

    Raises:
        RuntimeError: A step needs an engine that is not there.
        ValueError: The optimizer's next step is not in the log.
    """
    if not contents.first_step <= target.steps_done <= contents.end.step:
        raise ValueError(
            f"the log {contents.path} holds steps {contents.first_step} to {contents.end.step}, the optimizer is "
            f"at step {target.steps_done}; give it the state of a step within the log."
        )
    first = target.steps_done
    for record, settings in contents.records():
        if stop is not None and record.step >= stop:
            return
        if record.step < first:
            continue
        take_settings(target, settings)
        coefficients = torch.from_numpy(record.coefficients)
        if isinstance(target, GradientStep):
            _check_compiled(target.params[0].device, settings["compiled"], record.step)
            target.apply(coefficients.to(target.params[0].device), settings["compiled"])
        else:
            target.apply(coefficients.to(next(iter(named_parameters(target).values())).device))


def _check_compiled(device: torch.device, compiled: bool, step: int) -> None:
    if compiled and not (device.type == "cpu" and ops.engine_for(device) == "cpu"):
        raise RuntimeError(
            f"step {step} was a compiled one of FusedTrainer, which only the 'cpu' engine replays, and "
            f"{ops.engine_for(device)!r} on {device} was asked; leave the engine out."
        )


def _checked_steps(contents: Contents, steps: int) -> int:
    if not 0 <= steps <= contents.steps:
        raise ValueError(f"steps must be in [0, {contents.steps}], those in {contents.path}, got {steps}.")
    return steps
