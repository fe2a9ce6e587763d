"""Everything that ``zo-triton report`` measures, put together as one record."""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import replace

from zo_triton.experiments import accuracy, gates, memory, races, step_time
from zo_triton.experiments.machine import environment
from zo_triton.reporting import Record, new_record


def run_report(seed: int, tiny: bool, say: Callable[[str], None]) -> Record:
    """Runs the race and the measurements beside it.

    Args:
        seed: First of the race's seeds.
        tiny: Seconds instead of minutes, to prove that everything works.
        say: Told what runs now.

    Returns:
        A valid record, not yet written.

    Raises:
        GateError: The fused kernels do not compute what the theory says; nothing is timed then.
    """
    config = races.TINY if tiny else races.CONFIG
    config = replace(config, seeds=tuple(seed + number for number in config.seeds))
    origin = environment(seed)
    seconds = 0.2 if tiny else 4.0
    cases = step_time.TINY_CASES if tiny else step_time.CASES
    sections = {
        "gate": gates.run_gate(20 if tiny else 300, say),
        "step_time": step_time.run_step_time(cases, seconds, say),
        "step_split": step_time.run_step_split(cases, seconds / 2, say),
        "accuracy": accuracy.run_accuracy(accuracy.TINY if tiny else accuracy.AccuracyConfig(), say),
        "race": races.run_race(config, say),
    }
    # Peak memory is read from Linux's /proc.
    if platform.system() == "Linux":
        chosen = ("zo", "mezo") if tiny else tuple(memory.METHODS)
        sections["memory"] = memory.run_memory(memory.TINY_CASES if tiny else memory.CASES, say, chosen)
    return new_record(origin, sections, tiny)


def run_race(task: str, seed: int, say: Callable[[str], None]) -> Record:
    """One race and the gate before it.

    Args:
        task: A name in ``zo_triton.experiments.races.RACES``.
        seed: First of the race's seeds.
        say: Told what runs now.

    Raises:
        GateError: The fused kernels do not compute what the theory says; nothing is timed then.
        ValueError: There is no such race, or the data is damaged.
    """
    config = races.find_race(task)
    config = replace(config, seeds=tuple(seed + number for number in config.seeds))
    chosen = None if task == "digits" else [races.find_method(name, config) for name in races.RIVALS]
    origin = environment(seed)
    gate = gates.run_gate(300, say)
    return new_record(origin, {"gate": gate, "race": races.run_race(config, say, task, chosen)})
