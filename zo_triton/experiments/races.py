"""The races: whose methods and settings run on which task, forward passes only against backprop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import nn

from zo_triton import nzk
from zo_triton.data import Dataset
from zo_triton.experiments.baselines import Backprop, MeZO
from zo_triton.experiments.contender import Contender, Method, count_parameters
from zo_triton.experiments.fused import Fused
from zo_triton.experiments.race import FINALISTS, RaceConfig, Say, race
from zo_triton.experiments.tasks import find_task

CONFIG = RaceConfig(
    batch=64,
    directions=128,
    eps=1e-4,
    learning_rates=(1e-2, 2e-2, 3e-2, 5e-2, 1e-1, 3e-1, 1.0),
    trial_seconds=1.2,
    run_seconds=6.0,
    seeds=(0, 1, 2),
    tuning_seeds=(100, 101, 102),
    targets=(0.90, 0.95),
)
"""The main race's settings."""

RACES = {
    "digits": CONFIG,
    "mnist-mlp": replace(
        CONFIG,
        batch=128,
        directions=512,
        learning_rates=(1e-3, 3e-3, 1e-2, 3e-2, 1e-1),
        trial_seconds=4.0,
        run_seconds=20.0,
        tuning_seeds=(100,),
        targets=(0.85, 0.90),
    ),
    "mnist-cnn": replace(
        CONFIG,
        eps=1e-3,
        learning_rates=(3e-3, 8e-3, 2e-2),
        trial_seconds=12.0,
        run_seconds=290.0,
        seeds=(0,),
        tuning_seeds=(100,),
        targets=(0.90, 0.95),
        decay_steps=6000,
        overrun=1.02,
    ),
}
"""By task. A convolutional network takes minutes to its target: one seed."""

RIVALS = ("zo-adam", "mezo", "adam")
"""Who runs in the races but the main one, in which all do."""

MOMENTUM = 0.9
"""Of the fused ZO-SGD."""

LOOP_DIRECTIONS = 64
"""K of the MeZO loop, whose steps cost in proportion to K; other values were not tried in the race."""

TINY = replace(
    CONFIG,
    directions=8,
    learning_rates=(1e-2, 1e-1),
    trial_seconds=0.08,
    run_seconds=0.1,
    seeds=(0, 1),
    tuning_seeds=(100,),
)
"""Seconds instead of minutes: proves that everything works, measures nothing."""

DEFAULT_RATES = {
    "zo-adam": 2e-2,
    "zo-sgd": 3e-2,
    "mezo": 1e-2,
    "mezo-1": 1e-2,
    "adam": 3e-2,
    "sgd": 3e-1,
}
"""Reasonable learning rates for ``zo-triton train``; the race tunes its own."""


def methods(config: RaceConfig = CONFIG) -> list[Method]:
    """Every method of the race, fused ones first."""
    count, eps = config.directions, config.eps

    def zo_adam(model: nn.Module, lr: float, seed: int) -> Contender:
        return Fused(model, lr, seed, count, eps, decay_steps=config.decay_steps)

    def zo_sgd(model: nn.Module, lr: float, seed: int) -> Contender:
        return Fused(model, lr, seed, count, eps, momentum=MOMENTUM)

    def mezo(model: nn.Module, lr: float, seed: int) -> Contender:
        return MeZO(model, lr, seed, min(count, LOOP_DIRECTIONS), adam=True, decay_steps=config.decay_steps)

    def mezo_one(model: nn.Module, lr: float, seed: int) -> Contender:
        return MeZO(model, lr, seed, 1)

    def adam(model: nn.Module, lr: float, seed: int) -> Contender:
        return Backprop(model, lr, decay_steps=config.decay_steps)

    def sgd(model: nn.Module, lr: float, seed: int) -> Contender:
        return Backprop(model, lr, adam=False)

    return [
        Method("zo-adam", "fused ZO + Adam", "fused", zo_adam),
        Method("zo-sgd", "fused ZO + momentum", "fused", zo_sgd),
        Method("mezo", f"MeZO loop + Adam, K = {min(count, LOOP_DIRECTIONS)}", "zeroth", mezo),
        Method("mezo-1", "MeZO loop, K = 1", "zeroth", mezo_one),
        Method("adam", "backprop + Adam", "first", adam),
        Method("sgd", "backprop + SGD", "first", sgd),
    ]


def find_method(name: str, config: RaceConfig = CONFIG) -> Method:
    """The race's method of that name.

    Raises:
        ValueError: There is none.
    """
    known = {method.name: method for method in methods(config)}
    if name not in known:
        raise ValueError(f"unknown method {name!r}; choose one of {tuple(known)}.")
    return known[name]


def probe(model: nn.Module, data: Dataset, lr: float, config: RaceConfig = CONFIG) -> nzk.Probe:
    """The fused ZO-SGD's learning rate beside the largest stable one that a batch of ``data`` shows."""
    x = torch.from_numpy(data.train_x[: config.batch])
    return nzk.probe_lr(model, x, lr, config.directions, momentum=MOMENTUM)


def run_race(
    config: RaceConfig, say: Say, task: str = "digits", chosen: Sequence[Method] | None = None
) -> dict[str, Any]:
    """The record's section ``race``.

    Args:
        config: Its settings.
        say: Told what runs now.
        task: A name in ``zo_triton.experiments.tasks.TASKS``.
        chosen: The methods; None takes every one.
    """
    rates = ", ".join(f"{rate:g}" for rate in config.learning_rates)
    seconds, target = config.trial_seconds, config.targets[-1]
    course, tries = find_task(task).prepare(), len(config.tuning_seeds)
    note = (
        "Inputs are standardised with the training examples' mean and standard deviation. "
        f"Every method tried the same {len(config.learning_rates)} learning rates ({rates}) for at most "
        f"{seconds / 4:g} s of training each, and its {FINALISTS} best again with {tries} "
        f"{'seed' if tries == 1 else 'seeds'} for at most {seconds:g} s, on a fifth of the training examples held "
        "out (the test examples are never seen). The table gives "
        f"the steps to {100 * target:.0f} % validation accuracy, of the best the "
        "median over the seeds, or in brackets the best accuracy where it did not get there. Momentum is fixed "
        f"at {MOMENTUM}, Adam's other settings are torch's."
    )
    if config.decay_steps is not None:
        note += f" Adam's learning rate falls linearly to nothing over {config.decay_steps} steps for all."
    rows = race(chosen or methods(config), course, config, say)
    for row in rows:
        if row["name"] == "zo-sgd":
            found = probe(course.make_model(0), course.data, row["lr"], config)
            note += f" {row['label'].capitalize()}: {found}"
    return {
        "task": f"{task} (on {course.name})" if course.note else task,
        "network": course.network,
        "config": {
            key: list(value) if isinstance(value, tuple) else value for key, value in asdict(config).items()
        },
        "parameters": count_parameters(course.make_model(0)),
        "tuning": {"learning_rates": list(config.learning_rates), "note": note},
        "methods": rows,
    }


def find_race(task: str) -> RaceConfig:
    """The settings of a task's race.

    Raises:
        ValueError: It has none.
    """
    if task not in RACES:
        raise ValueError(f"there is no race on {task!r}; choose one of {tuple(RACES)}.")
    return RACES[task]
