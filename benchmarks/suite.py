"""What ``make report`` measures, in parts: the quick profile, the whole suite, and a tiny dry run."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from time import monotonic
from typing import Any

from benchmarks.contenders.registry import METHODS, guest
from benchmarks.field import run as field_quality
from benchmarks.measure import accuracy, curves, gates, memory, scaling, step_time, transformer_steps
from benchmarks.measure.quiet import Neighbours, wait_for_quiet
from benchmarks.race import races
from benchmarks.race.decoders import missing
from benchmarks.race.settings import RaceConfig, log_uniform
from benchmarks.race.sweep import most_seconds
from benchmarks.report import Record, new_record
from zo_triton._machine import environment
from zo_triton._progress import NOTE, Monitor
from zo_triton.directions import seed_after

Say = Callable[[str], None]

QUICK_RACES = dict.fromkeys(
    ("digits-mlp", "nzk-network"),
    ("zo-adam", "zo-activations", "mezo-adam", "vmap-adam", "adam", "adam-compiled"),
)
"""The quick profile's races and who runs: ours, a loop, an ensemble, backpropagation eager and compiled."""


QUICK_TRIALS = 12
"""Of each method: four learning rates with each of three K's, six with each of two, or twelve."""


@dataclass(frozen=True)
class Part:
    """One section of a report.

    Attributes:
        section: Its name in the record.
        seconds: What it takes on two quiet cores; the display of what is left counts on it.
        run: Measures it; told whom to tell what runs now.
    """

    section: str
    seconds: float
    run: Callable[[Say], dict[str, Any]]


def quick(seed: int) -> list[Part]:
    """The default: the gate, two races, three cases of step times, accuracy, the main race's memory."""
    return [
        Part("gate", 20, partial(gates.run_gate, 300)),
        *(
            _race(name, seconds, _shorter(races.RACES[name].config), seed, methods)
            for (name, methods), seconds in zip(QUICK_RACES.items(), (60, 35), strict=True)
        ),
        Part("step_time", 25, partial(step_time.run_step_time, step_time.CASES[:2], 5.0)),
        Part("transformers", 12, _transformers(transformer_steps.QUICK_CASES, None, 5.0)),
        Part("accuracy", 5, partial(accuracy.run_accuracy, accuracy.AccuracyConfig())),
        *_memory(20, [memory.race_case(QUICK_RACES["digits-mlp"])]),
    ]


def full(seed: int) -> list[Part]:
    """The whole suite."""
    field = field_quality.choose_config(tiny=False)
    return [
        Part("gate", 20, partial(gates.run_gate, 300)),
        *(_race(name, seconds, races.RACES[name].config, seed) for name, seconds in _full_races().items()),
        Part("step_time", 90, partial(step_time.run_step_time, step_time.CASES, 8.0)),
        Part("transformers", 150, _transformers(transformer_steps.CASES, transformer_steps.LARGE, 10.0)),
        Part("step_split", 10, partial(step_time.run_step_split, step_time.CASES, 2.0)),
        Part("curves", 30, partial(curves.run_curves, curves.CONFIG)),
        Part("accuracy", 25, partial(accuracy.run_accuracy, accuracy.AccuracyConfig())),
        Part("field_quality", 10, partial(field_quality.run_field_quality, field, seed)),
        Part("scaling", 15, partial(scaling.run_scaling, scaling.CONFIG)),
        *_memory(80, (memory.race_case(QUICK_RACES["digits-mlp"]), *memory.CASES, *memory.tuning_case())),
    ]


FULL_RACES = {
    "digits-mlp": 245.0,
    "nzk-linear": 25.0,
    "nzk-network": 35.0,
    "tiny-gpt": 160.0,
    "fine-tuning": 100.0,
}
"""The whole suite's races and their seconds; the others of ``races.RACES`` take minutes each."""


def _full_races() -> dict[str, float]:
    """Without the one that needs transformers where it is missing; its section says what to install."""
    return {name: each for name, each in FULL_RACES.items() if name != "fine-tuning" or not missing()}


def tiny(seed: int) -> list[Part]:
    """Everything, in seconds instead of minutes: proves that it works, measures nothing."""
    field = field_quality.choose_config(tiny=True)
    return [
        Part("gate", 5, partial(gates.run_gate, 20)),
        *(_race(name, 5, races.TINY, seed, tiny=True) for name in _full_races()),
        Part("step_time", 2, partial(step_time.run_step_time, step_time.TINY_CASES, 0.2)),
        Part(
            "transformers", 30, _transformers(transformer_steps.TINY_CASES, transformer_steps.TINY_LARGE, 0.1)
        ),
        Part("step_split", 1, partial(step_time.run_step_split, step_time.TINY_CASES, 0.05)),
        Part("curves", 2, partial(curves.run_curves, curves.TINY)),
        Part("accuracy", 2, partial(accuracy.run_accuracy, accuracy.TINY)),
        Part("field_quality", 2, partial(field_quality.run_field_quality, field, seed)),
        Part("scaling", 5, partial(scaling.run_scaling, scaling.TINY)),
        *_memory(5, memory.TINY_CASES),
    ]


PROFILES: dict[str, Callable[[int], list[Part]]] = {"quick": quick, "full": full, "tiny": tiny}
"""From a profile's name to its parts for the first of the races' seeds."""


def one_race(
    name: str, seed: int, guests: Sequence[str] = (), tiny: bool = False, only: Sequence[str] = ()
) -> list[Part]:
    """The gate and one race.

    Args:
        name: The race's.
        seed: First of its seeds.
        guests: Contenders that are no part of the suite, each FILE.py:NAME; they start with the race's own.
        tiny: In seconds: proves that it runs, measures nothing.
        only: Methods of the suite that race instead of the race's own; empty for these.

    Raises:
        ValueError: There is no such race, no such contender, or one is named twice.
    """
    entered = races.RACES[name]
    short = races.TINY_ON_DEVICE if entered.on_device else races.TINY
    config, methods = short if tiny else entered.config, [*(only or entered.methods), *guests]
    twice = sorted({each for each in methods if methods.count(each) > 1})
    if twice:
        raise ValueError(f"{twice[0]!r} is named twice; a method races once.")
    seconds = 10 if tiny else most_seconds(config, len(methods)) / 2  # most runs end at the last target
    race = _race(name, seconds, config, seed, methods, tiny)
    return [Part("gate", 20, partial(gates.run_gate, 20 if tiny else 300)), replace(race, section="race")]


def _shorter(config: RaceConfig) -> RaceConfig:
    """A race of the quick profile: fewer trials and seeds, less time for each."""
    return replace(
        config,
        learning_rates=log_uniform(*races.SPACE, QUICK_TRIALS),
        trial_seconds=0.4,
        run_seconds=2.0,
        seeds=config.seeds[:3],
    )


def _race(
    name: str,
    seconds: float,
    config: RaceConfig,
    seed: int,
    methods: Sequence[str] | None = None,
    tiny: bool = False,
) -> Part:
    config = replace(config, seeds=tuple(seed_after(seed, number) for number in config.seeds))
    chosen = None if methods is None else [guest(each) if ":" in each else METHODS[each] for each in methods]
    return Part(races.section_of(name), seconds, lambda say: races.run_race(name, config, say, chosen, tiny))


def _transformers(
    cases: Sequence[transformer_steps.TransformerCase],
    large: transformer_steps.TransformerCase | None,
    seconds: float,
) -> Callable[[Say], dict[str, Any]]:
    return partial(transformer_steps.run_transformers, cases, large, seconds)


def _memory(seconds: float, cases: Sequence[memory.MemoryCase]) -> list[Part]:
    """Peak memory is read from Linux's /proc."""
    if platform.system() != "Linux":
        return []
    return [Part("memory", seconds, partial(memory.run_memory, cases))]


def run_parts(parts: Sequence[Part], seed: int, profile: str, told: Monitor) -> Record:
    """Measures the parts, one after the other.

    Args:
        parts: The gate first: nothing is timed where it fails.
        seed: First of the races' seeds.
        profile: Which parts these are; the numbers of ``tiny`` mean nothing.
        told: Told what runs now; its plan are the parts.

    Returns:
        A valid record, not yet written. After Ctrl-C it holds what was finished, and ``interrupted`` in its
        environment says so; ``failed`` names the parts that raised an error.

    Raises:
        GateError: The fused kernels do not compute what the theory says; nothing is timed then.
        KeyboardInterrupt: Nothing but the gate was finished yet.
        Exception: That of the first part that failed, if nothing but the gate is left.
    """
    origin = {**environment(seed), "profile": profile}
    if profile != "tiny" and (busy := wait_for_quiet(told.say)) is not None:
        origin |= {"cores": os.cpu_count(), "cores busy before": busy}
    start, neighbours = monotonic(), Neighbours()
    sections: dict[str, Any] = {}
    errors: dict[str, Exception] = {}
    try:
        for part in parts:
            told.begin(part.section)
            try:
                sections[part.section] = part.run(told.say)
            except gates.GateError:
                raise
            except Exception as error:
                errors[part.section] = error
                told.say(f"{NOTE}{part.section} failed: {error}")
    except KeyboardInterrupt:
        if len(sections) < 2:
            raise
        origin["interrupted"] = True
    if errors:
        if len(sections) < 2:
            raise next(iter(errors.values()))
        texts = (f"{name}: {type(error).__name__}: {error}" for name, error in errors.items())
        origin["failed"] = "; ".join(text.splitlines()[0] for text in texts)
    if "cores busy before" in origin:
        origin["cores busy meanwhile"] = neighbours.cores()
    origin["run time"] = f"{monotonic() - start:.0f} s"
    return new_record(origin, sections, profile == "tiny")


def plan_of(parts: Sequence[Part]) -> dict[str, float]:
    """What a monitor's plan says of the parts."""
    return {part.section: part.seconds for part in parts}
