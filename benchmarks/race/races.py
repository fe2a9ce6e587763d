"""The races: whose methods and settings run on which task, forward passes only against backprop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import nn

from benchmarks.contenders.contender import Method, count_parameters
from benchmarks.contenders.fused import MOMENTUM
from benchmarks.contenders.registry import find_methods
from benchmarks.race.loop import FINALISTS, RaceConfig, Say, log_uniform, race
from benchmarks.race.tasks import find_task
from zo_triton import nzk
from zo_triton.data import Dataset

SPACE = (1e-3, 3.0)
"""From where to where learning rates are drawn, log-uniformly; the same for every method of every race."""

CONFIG = RaceConfig(
    batch=64,
    directions=128,
    eps=1e-4,
    learning_rates=log_uniform(*SPACE, 8),
    trial_seconds=0.8,
    run_seconds=4.0,
    seeds=(0, 1, 2, 3, 4),
    tuning_seeds=(100, 101, 102),
    targets=(0.90, 0.95),
)
"""The main race's settings."""

EVERYONE = (
    "zo-adam", "zo-sgd", "zo-align", "zo-rank-1", "mezo-adam", "mezo-1", "vmap-adam", "forward-adam",
    "rank-one-adam", "evosax", "evotorch", "adam", "sgd",
)  # fmt: skip
"""Who runs in a quick race; a method whose packages are not installed is left out."""

RIVALS = ("zo-adam", "mezo-adam", "vmap-adam", "adam")
"""Who runs in a long one."""


@dataclass(frozen=True)
class Race:
    """A race.

    Args:
        task: A name in ``benchmarks.race.tasks.TASKS``.
        config: Its settings.
        methods: Names of contenders.
    """

    task: str
    config: RaceConfig
    methods: tuple[str, ...] = RIVALS


_LONG = replace(
    CONFIG,
    learning_rates=log_uniform(*SPACE, 6),
    trial_seconds=4.0,
    run_seconds=20.0,
    seeds=(0, 1, 2),
    tuning_seeds=(100,),
)
_CONVOLUTIONAL = replace(_LONG, eps=1e-3, trial_seconds=8.0, run_seconds=60.0)

RACES = {
    "digits-mlp": Race("digits", CONFIG, EVERYONE),
    "nzk-linear": Race("nzk-linear", replace(CONFIG, directions=64, targets=(0.85, 0.90), run_seconds=2.0)),
    "nzk-network": Race("nzk-network", replace(CONFIG, directions=64, targets=(0.85, 0.90), run_seconds=2.0)),
    "tiny-gpt": Race(
        "tiny-gpt", replace(_LONG, trial_seconds=1.5, run_seconds=5.0, directions=64, targets=(0.30, 0.40))
    ),
    "mnist-mlp": Race("mnist-mlp", replace(_LONG, batch=128, directions=512, targets=(0.85, 0.90))),
    "mnist-cnn": Race(
        "mnist-cnn",
        replace(_CONVOLUTIONAL, run_seconds=290.0, targets=(0.90, 0.95), decay_steps=6000, overrun=1.02),
        ("zo-adam", "mezo-adam", "adam"),
    ),
    "cifar-cnn": Race("cifar-cnn", replace(_CONVOLUTIONAL, targets=(0.25, 0.35))),
    "tiny-imagenet-cnn": Race("tiny-imagenet-cnn", replace(_CONVOLUTIONAL, targets=(0.20, 0.30))),
}
"""By name. All run on the data at hand; digits stand in for images that are not there."""

DEFAULT_RACES = ("digits-mlp", "nzk-linear", "nzk-network", "tiny-gpt")
"""Those of ``python -m benchmarks report``; the others take minutes each."""

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
    "mezo-adam": 1e-2,
    "mezo-1": 1e-2,
    "adam": 3e-2,
    "sgd": 3e-1,
}
"""The methods of ``python -m benchmarks train``, and reasonable learning rates for them; a race tunes its own."""


def probe(model: nn.Module, data: Dataset, lr: float, config: RaceConfig = CONFIG) -> nzk.Probe:
    """The fused ZO-SGD's learning rate beside the largest stable one that a batch of ``data`` shows."""
    x = torch.from_numpy(data.train_x[: config.batch])
    return nzk.probe_lr(model, x, lr, config.directions, momentum=MOMENTUM)


def run_race(
    name: str, config: RaceConfig, say: Say, chosen: Sequence[Method] | None = None
) -> dict[str, Any]:
    """A record's section ``race``.

    Args:
        name: In :data:`RACES`.
        config: Its settings, or shorter ones.
        say: Told what runs now.
        chosen: The methods; None takes the race's.

    Raises:
        ValueError: There is no such race, or its data is damaged.
    """
    chosen = find_methods(find_race(name).methods) if chosen is None else chosen
    rates = ", ".join(f"{rate:g}" for rate in config.learning_rates)
    seconds, target = config.trial_seconds, config.targets[-1]
    task, tries = find_task(find_race(name).task).prepare(), len(config.tuning_seeds)
    note = (
        "Inputs are standardised with the training examples' mean and standard deviation. "
        f"Every method tried the same {len(config.learning_rates)} learning rates, drawn log-uniformly from "
        f"{SPACE[0]:g} to {SPACE[1]:g} ({rates}), for at most "
        f"{seconds / 4:g} s of training each, and its {FINALISTS} best again with {tries} "
        f"{'seed' if tries == 1 else 'seeds'} for at most {seconds:g} s, on a fifth of the training examples held "
        "out (the test examples are never seen). The table gives "
        f"the steps to {100 * target:.0f} % validation accuracy, of the best the "
        "median over the seeds, or in brackets the best accuracy where it did not get there. Momentum is fixed "
        f"at {MOMENTUM}, Adam's other settings are torch's."
    )
    if config.decay_steps is not None:
        note += f" Adam's learning rate falls linearly to nothing over {config.decay_steps} steps for all."
    rows = race(chosen, task, config, lambda text: say(f"{name}: {text}"))
    for row in rows:
        if row["name"] == "zo-sgd" and row["lr"] is not None:
            found = probe(task.make_model(0), task.data, row["lr"], config)
            note += f" {row['label'].capitalize()}: {found}"
    return {
        "name": name,
        "task": f"{name} (on {task.name})" if task.note else name,
        "data": task.name,
        "network": task.network,
        "config": {
            key: list(value) if isinstance(value, tuple) else value for key, value in asdict(config).items()
        },
        "parameters": count_parameters(task.make_model(0)),
        "tuning": {"learning_rates": list(config.learning_rates), "note": note},
        "methods": rows,
    }


def section_of(name: str) -> str:
    """The record's section for a race beside others; the main one's is ``race``."""
    return "race" if name == DEFAULT_RACES[0] else f"race_{name.replace('-', '_')}"


def find_race(name: str) -> Race:
    """The race of that name.

    Raises:
        ValueError: There is none.
    """
    if name not in RACES:
        raise ValueError(f"there is no race {name!r}; choose one of {tuple(RACES)}.")
    return RACES[name]
