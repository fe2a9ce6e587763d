"""The races: whose methods and settings run on which task, forward passes only against backprop."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import nn

import zo_triton as zo
from benchmarks.contenders.contender import Method
from benchmarks.contenders.fused import MOMENTUM
from benchmarks.contenders.registry import METHODS
from benchmarks.named import Named
from benchmarks.race.clocks import DeviceClock, HostClock
from benchmarks.race.loaded_task import CPU, LoadedTask
from benchmarks.race.loop import Say, race
from benchmarks.race.networks import count_parameters
from benchmarks.race.settings import RaceConfig, log_uniform
from benchmarks.race.sweep import FINALISTS
from benchmarks.race.tasks import TASKS, quietly
from zo_triton._progress import NOTE
from zo_triton.data import Dataset

SPACE = (1e-3, 3.0)
"""From where to where learning rates are drawn, log-uniformly; the same for every method of every race."""

CONFIG = RaceConfig(
    batch=64,
    directions=(16, 64, 128),
    eps=1e-4,
    learning_rates=log_uniform(*SPACE, 18),
    trial_seconds=0.6,
    run_seconds=4.0,
    seeds=(0, 1, 2, 3, 4),
    tuning_seeds=tuple(range(100, 107)),
    targets=(0.90, 0.95),
)
"""The main race's settings."""

EVERYONE = (
    "zo-adam", "zo-activations", "zo-sgd", "zo-align", "zo-rank-1", "mezo-adam", "mezo-1", "vmap-adam",
    "forward-adam", "rank-one-adam", "evosax", "evotorch", "adam", "adam-compiled", "sgd",
)  # fmt: skip
"""Who runs in a quick race; a method whose packages are not installed is left out."""

RIVALS = ("zo-adam", "zo-activations", "mezo-adam", "vmap-adam", "adam", "adam-compiled")
"""Who runs in a long one."""

CHOOSERS = (*RIVALS[:2], "zo-auto", *RIVALS[2:])
"""Who runs where ``auto`` leaves some layers to their weights."""

TUNERS = ("zo", "zo-adam", "zo-activations", "zo-lora", "mezo-1", "mezo-1-lora", "adam", "sgd", "adam-lora")
"""Who fine-tunes, all weights or adapters."""

TUNING_SPACE = (1e-5, 0.1)
"""Pre-trained weights want smaller steps than random ones."""

ON_DEVICE = ("zo-sgd-graph", "zo-adam", "mezo-adam", "adam", "adam-graph")
"""Who runs on a GPU."""

TINY = replace(
    CONFIG,
    directions=(4, 8),
    learning_rates=(1e-2, 1e-1),
    trial_seconds=0.08,
    run_seconds=0.1,
    seeds=(0, 1),
    tuning_seeds=(100,),
)
"""Seconds instead of minutes: proves that everything works, measures nothing."""

TINY_ON_DEVICE = replace(
    TINY, batch=8, directions=(2,), learning_rates=(1e-2,), trial_seconds=1e-3, run_seconds=1e-3, seeds=(0,)
)
"""The same for Triton's interpreter."""


@dataclass(frozen=True)
class Race:
    """A race.

    Args:
        task: A name in ``benchmarks.race.tasks.TASKS``.
        config: Its settings.
        methods: Names of contenders.
        on_device: Data and networks lie on a GPU, where there is one, and the clock is its.
        space: From where to where its learning rates are drawn, where they are.
        tiny: The task of a run that measures nothing; empty for the same.
    """

    task: str
    config: RaceConfig
    methods: tuple[str, ...] = RIVALS
    on_device: bool = False
    space: tuple[float, float] = SPACE
    tiny: str = ""


_LONG = replace(
    CONFIG,
    learning_rates=log_uniform(*SPACE, 18),
    trial_seconds=4.0,
    run_seconds=20.0,
    seeds=(0, 1, 2),
    tuning_seeds=(100,),
)
# The network has 16 outputs of layers: along as many orthogonal signs on them its gradient is whole.
_PAIR = replace(CONFIG, directions=(16, 64), targets=(0.85, 0.90), run_seconds=2.0)
# The best need four to ten steps, and with one seed twice as many as with another: a sweep by one alone would
# choose by luck, so there are as many seeds as in the main race.
_FEW_STEPS = replace(CONFIG, directions=(32, 64), targets=(0.30, 0.40), trial_seconds=1.5)
# A quarter of the cap is what a trial of the first round has: with steps of 20 ms it must be seconds.
_CONVOLUTIONAL = replace(_LONG, directions=(64, 128, 256), eps=1e-3, trial_seconds=24.0, run_seconds=60.0)
_ON_DEVICE = replace(
    CONFIG,
    directions=(256,),
    learning_rates=(3e-3, 1e-2, 3e-2, 1e-1),
    trial_seconds=0.5,
    run_seconds=2.0,
    seeds=(0, 1),
    tuning_seeds=(100,),
)

RACES = Named("race", {
    "digits-mlp": Race("digits", CONFIG, EVERYONE),
    "nzk-linear": Race("nzk-linear", _PAIR),
    "nzk-network": Race("nzk-network", _PAIR),
    "tiny-gpt": Race("tiny-gpt", _FEW_STEPS, CHOOSERS),
    "fine-tuning": Race(
        "fine-tuning",
        replace(
            CONFIG, batch=16, directions=(4, 16), eps=1e-3, learning_rates=log_uniform(*TUNING_SPACE, 10),
            trial_seconds=1.0, run_seconds=6.0, seeds=(0,), tuning_seeds=(100,), targets=(0.50, 0.80),
        ),
        TUNERS, space=TUNING_SPACE, tiny="fine-tuning-tiny",
    ),
    "mnist-mlp": Race("mnist-mlp", replace(_LONG, batch=128, directions=(32, 64, 512), targets=(0.90, 0.95))),
    "mnist-cnn": Race(
        "mnist-cnn",
        replace(_CONVOLUTIONAL, run_seconds=290.0, targets=(0.90, 0.95), decay_steps=6000, overrun=1.02),
        ("zo-adam", "zo-activations", "zo-auto", "mezo-adam", "adam", "adam-compiled"),
    ),
    "cifar-cnn": Race("cifar-cnn", replace(_CONVOLUTIONAL, targets=(0.25, 0.35))),
    "tiny-imagenet-cnn": Race("tiny-imagenet-cnn", replace(_CONVOLUTIONAL, targets=(0.20, 0.30))),
    "digits-gpu": Race("digits", _ON_DEVICE, ON_DEVICE, on_device=True),
    "mnist-gpu": Race(
        "mnist-gelu",
        replace(
            _ON_DEVICE, batch=128, directions=(4096,), learning_rates=(1e-3, 3e-3, 1e-2, 3e-2), trial_seconds=2.0,
            run_seconds=10.0, targets=(0.95, 0.97),
        ),
        ("zo-sgd-graph", "zo-adam", "adam", "adam-graph"),
        on_device=True,
    ),
})  # fmt: skip
"""By name. All run on the data at hand; digits stand in for images that are not there."""

MAIN_RACE = "digits-mlp"
"""A report's first."""

DEFAULT_RATES = Named("method", {
    "zo-adam": 2e-2,
    "zo-sgd": 3e-2,
    "mezo-adam": 1e-2,
    "mezo-1": 1e-2,
    "adam": 3e-2,
    "sgd": 3e-1,
})  # fmt: skip
"""The methods of ``python -m benchmarks train``, and reasonable learning rates for them; a race tunes its own."""


def probe(
    model: nn.Module, data: Dataset, lr: float, directions: int, batch: int = CONFIG.batch
) -> zo.nzk.Probe:
    """The fused ZO-SGD's learning rate beside the largest stable one that a batch of ``data`` shows."""
    return zo.nzk.probe_lr(model, torch.from_numpy(data.train_x[:batch]), lr, directions, momentum=MOMENTUM)


def load(name: str, say: Say = quietly, tiny: bool = False) -> LoadedTask:
    """A race's task, where it is raced on.

    Args:
        name: In :data:`RACES`.
        say: Told of what takes long.
        tiny: A smaller task of that kind will do.

    Raises:
        ValueError: There is no such race, its data is damaged, or what it needs is not installed.
    """
    found = RACES[name]
    task = TASKS[(found.tiny if tiny else "") or found.task].prepare(say)
    on_gpu = found.on_device and torch.cuda.is_available()
    return replace(task, device=torch.device("cuda")) if on_gpu else task


def run_race(
    name: str, config: RaceConfig, say: Say, chosen: Sequence[Method] | None = None, tiny: bool = False
) -> dict[str, Any]:
    """A record's section ``race``.

    Args:
        name: In :data:`RACES`.
        config: Its settings, or shorter ones.
        say: Told what runs now, and what is left out.
        chosen: The methods; None takes the race's.
        tiny: On a smaller task, where there is one, and nothing is compiled by torch.

    Raises:
        ValueError: As :func:`load`.
    """
    task = load(name, lambda text: say(text if text.startswith(NOTE) else f"{name}: {text}"), tiny)
    with torch.compiler.set_stance("force_eager" if tiny else "default"):
        *_, section = follow_race(name, config, task, say, chosen)
    for row in section["methods"]:
        if row["name"] == "zo-sgd" and row["lr"] is not None:
            found = probe(task.make_model(0), task.data, row["lr"], row["directions"], config.batch)
            section["tuning"]["note"] += f" {row['label'].capitalize()}: {found}"
    return section


def follow_race(
    name: str, config: RaceConfig, task: LoadedTask, say: Say, chosen: Sequence[Method] | None = None
) -> Iterator[dict[str, Any]]:
    """As :func:`run_race`, on a task that is loaded.

    Yields:
        The section as far as it goes, after each sweep and each run. Methods that can't run here are in
        ``left_out``; others that have neither run nor failed yet have no row.
    """
    chosen = [METHODS[each] for each in RACES[name].methods] if chosen is None else chosen
    left_out = [
        {"name": method.name, "label": method.label, "why": method.why_left_out}
        for method in chosen
        if method.missing
    ]
    for each in left_out:
        say(f"{name}: left out: {each['label']}: {each['why']}")
    on_device = RACES[name].on_device
    section = {
        "name": name,
        "task": f"{name} (on {task.name})" if task.note else name,
        "data": task.name,
        "network": task.network,
        "config": {
            key: list(value) if isinstance(value, tuple) else value for key, value in asdict(config).items()
        },
        "parameters": count_parameters(task.make_model(0)),
        "tuning": {
            "learning_rates": list(config.learning_rates),
            "directions": list(config.directions),
            "note": _note(RACES[name], config, task),
        },
        "left_out": left_out,
    }
    for rows in race(
        [method for method in chosen if not method.missing],
        task,
        config,
        lambda text: say(f"{name}: {text}"),
        DeviceClock(task.device) if on_device else HostClock(),
    ):
        yield {**section, "methods": [row for row in rows if row["runs"] or "error" in row]}


def _note(entered: Race, config: RaceConfig, task: LoadedTask) -> str:
    """What a reader must know about the sweep and the clock."""
    rates = ", ".join(f"{rate:g}" for rate in config.learning_rates)
    low, high = entered.space
    drawn = "" if entered.on_device else f", drawn log-uniformly from {low:g} to {high:g}"
    seconds, target, tries = config.trial_seconds, config.targets[-1], len(config.tuning_seeds)
    count = len(config.learning_rates)
    held = "on a fifth of the training examples held out"
    if tries > 1:
        held += ", for each seed its own"
    walks = ", ".join(str(each) for each in config.directions)
    note = (
        f"{task.prepared}Every method had the same number of trials, {count}: backpropagation, and whoever's K is "
        f"fixed, one with each of {count} learning rates{drawn} ({rates}); whoever has a K to choose, "
        f"{count // len(config.directions)} of these rates with each K of {walks}. A trial is at most "
        f"{seconds / 4:g} s of training, and the {FINALISTS} best are tried again with {tries} "
        f"{'seed' if tries == 1 else 'seeds'} for at most {seconds:g} s, {held} "
        "(the test examples are never seen). Soonest is best: steps, times what a step with that K takes in "
        "the median. Each method has one thread or all, whichever its steps are quicker with. The table gives "
        f"the steps to {100 * target:.0f} % validation accuracy, of the best the "
        "median over the seeds, or in brackets the best accuracy where it did not get there. Momentum is fixed "
        f"at {MOMENTUM}, Adam's other settings are torch's."
    )
    if config.decay_steps is not None:
        note += f" Adam's learning rate falls linearly to nothing over {config.decay_steps} steps for all."
    if entered.on_device:
        where = "CPU" if task.device == CPU else "GPU"
        note += (
            f" Data and batches lie on the {where}; the clock runs over blocks of steps queued one after the "
            "other, up to the device's last."
        )
    return note


def section_of(name: str) -> str:
    """The record's section for a race beside others; the main one's is ``race``."""
    return "race" if name == MAIN_RACE else f"race_{name.replace('-', '_')}"
