"""The races of a GPU run: rows of the one table of races, their sections laid down run by run."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

from benchmarks.contenders.contender import LeftOutError
from benchmarks.gpu.results import FAILED, LEFT_OUT, TOO_LATE, StageResults
from benchmarks.race.loaded_task import LoadedTask
from benchmarks.race.races import RACES, TINY_ON_DEVICE, follow_race
from benchmarks.race.tasks import TASKS
from zo_triton.data import available
from zo_triton.data.files import absent

TINY_HIDDEN = (8,)
"""Widths in a tiny run."""


def run_race(results: StageResults, name: str, section: str) -> None:
    """One race, as a section of the record.

    The section is missing, and an incident says why, without the data, and without any of our own methods' runs.
    Each method that failed, came too late or is left out is an incident of its own.

    Args:
        results: Where the section goes.
        name: In :data:`benchmarks.race.races.RACES`.
        section: Its name in the record.
    """
    task = results.attempt("data", partial(_load, results, name))
    if task is None:
        return
    config = TINY_ON_DEVICE if results.context.tiny else RACES[name].config
    told: set[str] = set()
    for found in follow_race(name, config, task, lambda text: None):
        if any(row["family"] == "fused" and row["runs"] for row in found["methods"]):
            results.put(section, found)
        for label, status, why in _incidents(found):
            if label not in told:
                told.add(label)
                results.report(label, status, why)
        if results.is_late and not _is_over(found, len(RACES[name].methods)):
            results.report("the rest of the race", LEFT_OUT, TOO_LATE)
            break


def _incidents(section: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Label, status and reason of each method that has failed or is left out."""
    for row in section["left_out"]:
        yield row["label"], LEFT_OUT, row["why"]
    for row in section["methods"]:
        if "error" in row:
            yield row["label"], FAILED, row["error"]


def _is_over(section: dict[str, Any], methods: int) -> bool:
    """Whether every method that can run here has failed or finished."""
    seeds = len(section["config"]["seeds"])
    ended = sum("error" in row or len(row["runs"]) == seeds for row in section["methods"])
    return ended + len(section["left_out"]) == methods


def _load(results: StageResults, name: str) -> LoadedTask:
    """A race's task on the stage's device.

    Raises:
        LeftOutError: Its data is not here: nothing stands in for it.
    """
    task = TASKS[RACES[name].task]
    if task.data == "digits" and importlib.util.find_spec("sklearn") is None:
        raise LeftOutError("scikit-learn, which has the digits, is not installed.")
    if not available(task.data):
        raise LeftOutError(f"{absent(task.data)}.")
    if results.context.tiny:
        task = replace(task, hidden=TINY_HIDDEN)
    return replace(task.prepare(), device=results.context.device)
