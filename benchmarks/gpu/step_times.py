"""Milliseconds of one training step on a GPU, ours against what else a user could run there."""

from __future__ import annotations

from functools import partial
from statistics import median
from typing import Any

import torch

from benchmarks.contenders.contender import Method
from benchmarks.contenders.registry import METHODS
from benchmarks.gpu.results import StageContext, StageResults
from benchmarks.measure.step_time import StepCase, example, setting
from benchmarks.timing import round_digits

RECORDED, MEZO = "zo-graph", "mezo"
"""Names that goals are about."""

NAMES = (RECORDED, "zo", "zo-central-graph", MEZO, "vmap", "inference-graph", "sgd", "sgd-graph")
"""Who is timed, ours first."""

COMPILED = ("mezo-compiled", "vmap-compiled", "sgd-compiled")
"""Timed last, as compiling takes longer than all else, and on the first network only."""


def run_steps(results: StageResults) -> None:
    """The section ``step_time``; what failed or is left out has no row."""
    section: dict[str, Any] = {
        "note": (
            "Medians of one whole training step (perturb, evaluate, update) on a batch that lies on the GPU, by "
            "CUDA events around steps queued one after the other, compilation excluded. Zeroth-order steps walk K "
            "full-rank directions: ours Rademacher signs, the others Gaussian. A backward pass counts as two "
            "evaluations. *CUDA graph*: the step's kernels are recorded once and launched together; *compiled*: by "
            '`torch.compile(mode="reduce-overhead")`, which replays graphs as well; the first network '
            "only, as compiling takes longer than all else."
        ),
        "cases": [],
    }
    for case in results.context.shapes.steps:
        row: dict[str, Any] = {"name": case.name, "contenders": []}
        first = case is results.context.shapes.steps[0]
        for name in (*NAMES, *(COMPILED if first else ())):
            one = METHODS[name]
            found = results.attempt(f"{one.label}, {case.name}", partial(_time, one, case, results.context))
            if found is not None:
                row["contenders"].append(found)
            if row["contenders"]:
                section["cases"] = [*[each for each in section["cases"] if each["name"] != case.name], row]
                results.put("step_time", section)


def _time(one: Method, case: StepCase, context: StageContext) -> dict[str, Any]:
    model, x, y = example(case)
    x, y = x.to(context.device), y.to(context.device)
    contender = one.build(model.to(context.device), setting(case))
    # A tiny run has no time to compile.
    with torch.compiler.set_stance("force_eager" if context.tiny else "default"):
        contender.prepare(x, y)
        taken = context.clock.times(lambda: contender.step(x, y), context.shapes.seconds)
    return {
        "name": one.name,
        "label": one.label,
        "family": one.family,
        "dtype": one.dtype,
        "evaluations": contender.evaluations_per_step,
        "median_ms": round_digits(1000 * median(taken)),
        "fastest_ms": round_digits(1000 * min(taken)),
        "repeats": len(taken),
    }
