"""Trains several methods on the same batches from the same weights and records what each second bought.

Fairness, which decides such a comparison: every method gets as many trials of its learning rate and K
(:mod:`benchmarks.race.sweep`) and the number of threads that its steps are quicker with, its clock runs during
training steps only, compilation and warm-up happen before it, and the methods take turns seed by seed so that a
busy machine slows them all. The clock is the host's or a device's (:mod:`benchmarks.race.clocks`).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from math import inf
from statistics import median
from time import perf_counter
from typing import Any

from benchmarks.contenders.contender import COMPILER, Method
from benchmarks.race.clocks import HostClock, RaceClock
from benchmarks.race.loaded_task import LoadedTask
from benchmarks.race.settings import Choice, RaceConfig, choices
from benchmarks.race.sweep import tune
from benchmarks.race.training_run import build, run
from benchmarks.timing import WARM_UPS, round_digits

Say = Callable[[str], None]


def warm_up(
    method: Method, task: LoadedTask, config: RaceConfig, clock: RaceClock
) -> tuple[float, RaceClock, str]:
    """A few steps on throw-away weights, where a process compiles.

    Returns:
        The seconds that the first ones took, the clock with the threads that suit the method, and the dtype that
        its evaluations compute in.
    """
    _, contender = build(method, task, config, 0, choices(method, config)[0])
    source = task.batches(config.batch, 0)
    start = perf_counter()
    batch = next(source)
    contender.prepare(*batch)
    clock.take(contender.step, islice(source, WARM_UPS), inf)
    seconds = perf_counter() - start
    return seconds, clock.suited(contender, batch), contender.computes_in or method.dtype


def race(
    methods: Sequence[Method], task: LoadedTask, config: RaceConfig, say: Say, clock: RaceClock | None = None
) -> Iterator[list[dict[str, Any]]]:
    """Warm-up and sweep for each method, then every seed for each method in turns.

    Yields:
        After each sweep and each run, one row a method, as a record's section ``race`` holds them: so far, and at
        last complete; with ``error`` where a method failed. Whoever has no more time takes no more of them.
    """
    clock = HostClock() if clock is None else clock
    rows = {method.name: _row(method) for method in methods}
    clocks: dict[str, RaceClock] = {}
    for number, method in enumerate(methods, 1):
        say(f"tuning {number} of {len(methods)}: {method.label}")
        row = rows[method.name]
        with _mishaps_recorded_in(row):
            seconds, suited, row["dtype"] = warm_up(method, task, config, clock)
            clocks[method.name], row["threads"] = suited, suited.count
            row["set_up_seconds"] = round_digits(seconds, 3)
            found, row["trials"] = tune(method, task, config, suited)
            row |= found._asdict()
        yield list(rows.values())
    for turn, seed in enumerate(config.seeds):
        # Another method starts each turn: none always runs on a processor that the same rival has heated.
        shift = turn % len(methods)
        for method in [*methods[shift:], *methods[:shift]]:
            row = rows[method.name]
            if "error" in row:
                continue
            say(f"run {turn + 1} of {len(config.seeds)}, seed {seed}: {method.label}")
            with _mishaps_recorded_in(row):
                chosen = Choice(row["lr"], row["directions"])
                run_of_seed = run(method, task, config, seed, chosen, config.run_seconds, clocks[method.name])
                row["runs"].append(run_of_seed)
                row["step_ms"] = round_digits(median(one["step_ms"] for one in row["runs"]))
                row["evaluations_per_step"] = run_of_seed["evaluations_per_step"]
            yield list(rows.values())


def _row(method: Method) -> dict[str, Any]:
    """A method's row before it has run."""
    return {
        "name": method.name,
        "label": method.label,
        "family": method.family,
        "dtype": method.dtype,
        "asks": method.asks,
        "compiled": COMPILER in method.needs,
        "set_up_seconds": None,
        "threads": None,
        "lr": None,
        "directions": None,
        "trials": [],
        "runs": [],
        "warnings": [],
        "step_ms": None,
        "evaluations_per_step": None,
    }


@contextmanager
def _mishaps_recorded_in(row: dict[str, Any]) -> Iterator[None]:
    """A method that fails, or warns, says so in its row instead of on the screen, and the others go on."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        try:
            yield
        except Exception as error:
            row["error"] = f"{type(error).__name__}: {error}".splitlines()[0]
            row |= {"runs": [], "step_ms": None, "evaluations_per_step": None}
    told = [f"{warning.category.__name__}: {warning.message}".splitlines()[0] for warning in caught]
    row["warnings"] = list(dict.fromkeys([*row["warnings"], *told]))
