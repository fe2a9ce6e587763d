"""Everything that ``python -m benchmarks report`` measures, put together as one record."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from benchmarks.field import run as field_quality
from benchmarks.measure import accuracy, curves, gates, memory, scaling, step_time
from benchmarks.race import races
from benchmarks.report import Record, new_record
from zo_triton._machine import environment


def run_report(
    seed: int, tiny: bool, say: Callable[[str], None], names: Sequence[str] = races.DEFAULT_RACES
) -> Record:
    """Runs the races and the measurements beside them.

    Args:
        seed: First of the races' seeds.
        tiny: Seconds instead of minutes, to prove that everything works.
        say: Told what runs now.
        names: The races, of ``benchmarks.race.races.RACES``.

    Returns:
        A valid record, not yet written. After Ctrl-C it holds what was finished, and ``interrupted`` in its
        environment says so.

    Raises:
        GateError: The fused kernels do not compute what the theory says; nothing is timed then.
        KeyboardInterrupt: Nothing was finished yet.
        ValueError: A race is unknown, or its data damaged.
    """
    chosen = {name: races.RACES[name] for name in names}
    origin = environment(seed)
    seconds = 0.2 if tiny else 8.0
    cases = step_time.TINY_CASES if tiny else step_time.CASES
    sections: dict[str, Any] = {}
    try:
        sections["gate"] = gates.run_gate(20 if tiny else 300, say)
        for name, race in chosen.items():
            config = races.TINY if tiny else race.config
            config = replace(config, seeds=tuple(seed + number for number in config.seeds))
            sections[races.section_of(name)] = races.run_race(name, config, say)
        sections["step_time"] = step_time.run_step_time(cases, seconds, say)
        sections["step_split"] = step_time.run_step_split(cases, seconds / 4, say)
        sections["curves"] = curves.run_curves(curves.TINY if tiny else curves.CONFIG, say)
        sections["accuracy"] = accuracy.run_accuracy(
            accuracy.TINY if tiny else accuracy.AccuracyConfig(), say
        )
        sections["field_quality"] = field_quality.run_field_quality(
            field_quality.choose_config(tiny), seed, say
        )
        sections["scaling"] = scaling.run_scaling(scaling.TINY if tiny else scaling.CONFIG, say)
        # Peak memory is read from Linux's /proc.
        if platform.system() == "Linux":
            some = ("zo", "mezo") if tiny else memory.METHODS
            sections["memory"] = memory.run_memory(memory.TINY_CASES if tiny else memory.CASES, say, some)
    except KeyboardInterrupt:
        if len(sections) < 2:  # the gate alone is no report
            raise
        origin["interrupted"] = True
    return new_record(origin, sections, tiny)


def run_race(name: str, seed: int, say: Callable[[str], None]) -> Record:
    """One race and the gate before it.

    Args:
        name: In ``benchmarks.race.races.RACES``.
        seed: First of the race's seeds.
        say: Told what runs now.

    Raises:
        GateError: The fused kernels do not compute what the theory says; nothing is timed then.
        ValueError: There is no such race, or the data is damaged.
    """
    config = races.RACES[name].config
    config = replace(config, seeds=tuple(seed + number for number in config.seeds))
    origin = environment(seed)
    gate = gates.run_gate(300, say)
    return new_record(origin, {"gate": gate, "race": races.run_race(name, config, say)})
