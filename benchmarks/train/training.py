"""One training run, step by step, for the command line."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing, nullcontext
from dataclasses import asdict, dataclass, fields, replace
from math import isfinite
from pathlib import Path
from typing import Any

import torch
from torch import nn

import zo_triton as zo
from benchmarks.contenders.contender import Contender
from benchmarks.contenders.registry import METHODS
from benchmarks.race.loaded_task import LoadedTask
from benchmarks.race.races import CONFIG, DEFAULT_RATES, probe
from benchmarks.race.settings import Choice, setting
from benchmarks.race.tasks import TASKS
from benchmarks.train.run_folder import RunFolder, check_empty, read_settings, tensors_of
from zo_triton._progress import Monitor
from zo_triton.directions import check_seed

LARGE = 10_000
"""From so many training examples on, accuracy is looked at less often."""

SHARED_METHODS = ("zo-adam", "zo-sgd")
"""Those that ranks can share."""

TORCHRUN = "torchrun --nproc-per-node 2 -m benchmarks train --distributed"
"""How a run is shared among ranks."""

CHECKPOINT_EVERY = 100
"""Steps between checkpoints by default."""


MOST_DIRECTIONS = 2**20
"""A step, more of which would take hours before anything is told."""


@dataclass(frozen=True)
class Settings:
    """All that a run is told.

    Args:
        task: A name in ``benchmarks.race.tasks.TASKS``.
        method: A name in ``benchmarks.race.races.DEFAULT_RATES``.
        lr: Learning rate.
        directions: K.
        seed: Of weights, batches and directions.
        steps: How many.
        engine: reference, cpu or triton; None lets the device decide.
        halve_after: Steps after which the learning rate is halved; after twice as many it is a third, and so on.
            0 keeps it.
        checkpoint_every: Steps between checkpoints, where there is a folder for them.
        shards: Into how many runs ranks cut the directions; None where there are no ranks.
    """

    task: str
    method: str
    lr: float
    directions: int
    seed: int
    steps: int
    engine: str | None
    halve_after: int
    checkpoint_every: int
    shards: int | None

    def rate_at(self, step: int) -> float:
        """The learning rate of a step, counted from 1; in stairs, each of which a log writes down once.

        It hangs on no number of steps to come, so that a run made longer is the run that was long from the start.
        """
        return self.lr / (1 + (step - 1) // self.halve_after) if self.halve_after else self.lr


@dataclass(frozen=True)
class Progress:
    """Where a run stands: steps done, the step's loss, and test accuracy as of the latest look."""

    step: int
    loss: float
    accuracy: float


@dataclass(frozen=True)
class Run:
    """A training run that is about to start, or to go on.

    Attributes:
        settings: What it was told.
        done: Steps that an earlier process has taken.
        note: What a reader must know: other data than the task says, a learning rate beyond the stable one.
        progress: Trains, and yields after every step.
    """

    settings: Settings
    done: int
    note: str
    progress: Iterator[Progress]


def choose(
    task: str | None = None,
    method: str | None = None,
    lr: float | None = None,
    directions: int | None = None,
    seed: int | None = None,
    steps: int | None = None,
    engine: str | None = None,
    halve_after: int | None = None,
    checkpoint_every: int | None = None,
    shards: int | None = None,
) -> Settings:
    """The settings of a run; None takes what suits the task and the method, and for ``shards`` no ranks.

    Raises:
        ValueError: A name is unknown or a number out of range.
    """
    found = TASKS["digits" if task is None else task]
    steps = found.steps if steps is None else steps
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}.")
    if lr is not None and not 0 <= lr < float("inf"):
        raise ValueError(f"lr must be finite and not negative, got {lr}.")
    seed = check_seed(0 if seed is None else seed)
    directions = found.directions if directions is None else directions
    if not 1 <= directions <= MOST_DIRECTIONS:
        raise ValueError(f"directions must be at least 1 and at most {MOST_DIRECTIONS}, got {directions}.")
    method = "zo-adam" if method is None else method
    usual = DEFAULT_RATES[method]
    halve_after = found.halve_after if halve_after is None else halve_after
    if halve_after < 0:
        raise ValueError(f"halve_after must not be negative, got {halve_after}; 0 keeps the learning rate.")
    every = CHECKPOINT_EVERY if checkpoint_every is None else checkpoint_every
    if every < 1:
        raise ValueError(f"checkpoint_every must be at least 1 step, got {every}.")
    if shards is not None and method not in SHARED_METHODS:
        raise ValueError(f"method {method!r} can't be shared among ranks; choose one of {SHARED_METHODS}.")
    rate = dict(found.rates).get(method, usual) if lr is None else lr
    return Settings(found.name, method, rate, directions, seed, steps, engine, halve_after, every, shards)


def train(
    settings: Settings, out: str | os.PathLike[str] | None = None, ranks: zo.Ranks | None = None
) -> Run:
    """Prepares a run from its first step.

    Args:
        settings: From :func:`choose`.
        out: The folder that gets its files; None keeps nothing.
        ranks: Share the work; the other ranks :func:`follow` the first.

    Raises:
        OSError: The folder can't be written.
        ValueError: The folder holds a run, the engine is unknown, or the data is damaged.
    """
    if out is not None:
        check_empty(out)
    task = _load(settings)
    model, contender = _build(settings, task, ranks)
    folder = None
    if out is not None:
        folder = RunFolder(Path(out), {**asdict(settings), "data": task.name}, model, contender)
        folder.begin()
    _hand_out(ranks, 0, model, contender)
    return Run(settings, 0, _note(settings, task), _progress(settings, task, model, contender, folder, 0))


def saved_settings(path: str | os.PathLike[str], **asked: Any) -> Settings:
    """The settings of the run in a folder.

    Args:
        path: The folder.
        asked: Settings that the caller thinks the run has; None where it does not care. ``steps`` may be more than
            it had.

    Raises:
        OSError: A file can't be read.
        ValueError: There is no run, a file is damaged, or the run has other settings than those asked for or more
            steps.
    """
    saved = {
        "halve_after": 0,
        **read_settings(path),
    }  # a run kept its learning rate before there was a choice
    longer = asked.pop("steps", None)
    for name, value in asked.items():
        if value is not None and saved.get(name) != value:
            raise ValueError(
                f"{name} is {saved.get(name)!r} in {path}, got {value!r}; a run goes on as it began: leave "
                f"--{name.replace('_', '-')} out, or start another run."
            )
    names = [field.name for field in fields(Settings)]
    if sorted(saved) != sorted([*names, "data"]):
        raise ValueError(f"{Path(path) / 'run.json'} must hold {names} and data, got {list(saved)}.")
    settings = choose(**{name: saved[name] for name in names})
    if longer is None:
        return settings
    if longer < settings.steps:
        raise ValueError(
            f"the run in {path} has {settings.steps} steps, got --steps {longer}; a run can be made longer, not "
            "shorter: leave --steps out."
        )
    return replace(settings, steps=longer)


def resume(
    path: str | os.PathLike[str], intact_prefix: bool = False, ranks: zo.Ranks | None = None, **asked: Any
) -> Run:
    """Prepares to go on with the run in a folder, from its last step.

    Args:
        path: The folder.
        intact_prefix: Take a damaged log up to its damage, instead of refusing it.
        ranks: Share the work, as they did before; the other ranks :func:`follow` the first.
        asked: As for :func:`saved_settings`.

    Raises:
        OSError: A file can't be read or written.
        ValueError: There is no run, a file is damaged, the run has other settings than those asked for, or
            one with ranks is to go on without, or the other way round.
    """
    settings, saved = saved_settings(path, **asked), read_settings(path)
    if (settings.shards is None) != (ranks is None):
        remedy = (
            "no ranks: leave --distributed out" if ranks else f"ranks: go on with {TORCHRUN} --resume {path}"
        )
        raise ValueError(f"the run in {path} has {remedy}.")
    task = _load(settings)
    if task.name != saved["data"]:
        raise ValueError(f"the run in {path} trains on {saved['data']!r}, and {task.name!r} is what is here.")
    model, contender = _build(settings, task, ranks)
    folder = RunFolder(Path(path), {**saved, "steps": settings.steps}, model, contender)
    with zo.use_engine(settings.engine):
        done = folder.go_on(intact_prefix)
    if settings.steps > saved["steps"]:
        folder.write_settings()
    _hand_out(ranks, done, model, contender)
    return Run(
        settings,
        done,
        _note(settings, task),
        _progress(settings, task, model, contender, folder, done),
    )


def follow(settings: Settings, ranks: zo.Ranks) -> Run:
    """Prepares the part of a rank that writes nothing, from where rank 0 begins or goes on.

    Raises:
        RankError: Another rank is gone.
        ValueError: The data is damaged.
    """
    task = _load(settings)
    model, contender = _build(settings, task, ranks)
    done, tensors, state = ranks.from_first(None)
    if done:
        with torch.no_grad():
            for name, tensor in tensors_of(model).items():
                tensor.copy_(tensors[name])
        contender.load_state(state)
    return Run(settings, done, "", _progress(settings, task, model, contender, None, done))


def _hand_out(ranks: zo.Ranks | None, done: int, model: nn.Module, contender: Contender) -> None:
    """Brings the ranks that follow to where this one stands; at the beginning they are there already."""
    if ranks is not None:
        ranks.from_first((done, tensors_of(model), contender.state()) if done else (0, {}, None))


def _load(settings: Settings) -> LoadedTask:
    # An unknown engine is told before the data is read.
    with zo.use_engine(settings.engine):
        return TASKS[settings.task].prepare(Monitor().say)


def _build(settings: Settings, task: LoadedTask, ranks: zo.Ranks | None) -> tuple[Any, Contender]:
    model = task.make_model(settings.seed)
    choice = Choice(settings.lr, settings.directions)
    told = replace(setting(CONFIG, choice, settings.seed, task.loss), ranks=ranks)
    return model, METHODS[settings.method].build(model, told)


def _note(settings: Settings, task: LoadedTask) -> str:
    notes = [task.note]
    if settings.method == "zo-sgd" and settings.lr > 0:
        model = task.make_model(settings.seed)
        stability = probe(model, task.data, settings.lr, settings.directions)
        notes.append(f"{stability}" if stability.is_beyond else "")
    return "\n".join(filter(None, notes))


def _progress(
    settings: Settings,
    task: LoadedTask,
    model: Any,
    contender: Contender,
    folder: RunFolder | None,
    done: int,
) -> Iterator[Progress]:
    source = task.batches(TASKS[settings.task].batch, settings.seed, done)
    look = 10 if len(task.data.train_x) < LARGE else 50
    accuracy = task.evaluate(model)[1]
    first: float | None = None
    with zo.use_engine(settings.engine), nullcontext() if folder is None else closing(folder):
        for step in range(done + 1, settings.steps + 1):
            contender.take_rate(settings.rate_at(step))
            loss = _finite(contender, next(source), settings, step, first)
            first = loss if first is None else first
            if folder is not None and (step % settings.checkpoint_every == 0 or step == settings.steps):
                folder.save(step)
            if step % look == 0 or step == settings.steps:
                accuracy = task.evaluate(model)[1]
            yield Progress(step, loss, accuracy)


def _finite(contender: Contender, batch: Any, settings: Settings, step: int, first: float | None) -> float:
    """The loss of one step.

    Raises:
        ValueError: It is not finite: the learning rate is too large.
    """
    try:
        loss = float(contender.step(*batch))
        why = f"the loss is {loss}"
    except zo.NonFiniteLossError as error:
        loss, why = float("nan"), str(error).partition(":")[0]
    if isfinite(loss):
        return loss
    start = "at once" if first is None else f"from {first:.3g}"
    raise ValueError(
        f"the run diverged {start} by step {step} ({why}); lower --lr, which is {settings.lr:g}."
    )
