"""The record's section ``compatibility``: every model, one after the other, and what came of it."""

from __future__ import annotations

import gc
import warnings
from collections import Counter
from collections.abc import Iterable
from importlib import metadata
from typing import Any

from benchmarks.compatibility import check
from benchmarks.compatibility.models import Kind, kinds
from benchmarks.timing import round_digits
from zo_triton._progress import Monitor

PACKAGES = ("transformers", "timm", "torchvision", "peft")


def run_compatibility(
    told: Monitor, tiny: bool = False, found: Iterable[Kind] | None = None
) -> dict[str, Any]:
    """Measures the models of every kind whose packages are installed.

    Args:
        told: Hears of each model.
        tiny: One model of each kind will do.
        found: The kinds; None for all that there are.

    Returns:
        The section: rows by kind, and the settings that they were measured with.
    """
    chosen = [
        (kind, kind.models[:1] if tiny else kind.models) for kind in (kinds() if found is None else found)
    ]
    total, done = sum(len(models) for _, models in chosen), 0
    measured: list[dict[str, Any]] = []
    for kind, models in chosen:
        rows: list[dict[str, Any]] = []
        for model in models:
            with warnings.catch_warnings():  # the packages' own are none of this table's business
                warnings.simplefilter("ignore")
                came_of_it = check.outcome(model)
            gc.collect()
            done += 1
            told.say(f"{done} of {total}: {model.name}: {came_of_it.word}")
            error = came_of_it.error
            rows.append(
                {
                    "name": model.name,
                    "word": came_of_it.word,
                    "error": None if error is None else round_digits(error, 2),
                    "why": came_of_it.why,
                }
            )
        measured.append({"title": kind.title, "missing": list(kind.missing), "rows": rows})
    return {
        "eps": check.EPS,
        "directions": check.DIRECTIONS,
        "bounds": {str(dtype).removeprefix("torch."): bound for dtype, bound in check.BOUNDS.items()},
        "packages": _versions(),
        "counts": dict(Counter(row["word"] for kind in measured for row in kind["rows"])),
        "kinds": measured,
    }


def has_failed(section: dict[str, Any]) -> bool:
    """Whether a difference was wrong without a word, or the library broke."""
    return any(section["counts"].get(word) for word in (check.WRONG, check.CRASHED))


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found
