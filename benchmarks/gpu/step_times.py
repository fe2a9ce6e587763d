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
from benchmarks.report.statistics import find
from benchmarks.timing import round_digits

RECORDED, MEZO = "zo-graph", "mezo"
"""Names that goals are about."""

NAMES = (RECORDED, "zo", "zo-central-graph", MEZO, "vmap", "inference-graph", "sgd", "sgd-graph")
"""Who is timed, ours first."""

COMPILED = ("mezo-compiled", "vmap-compiled", "sgd-compiled")
"""Timed last of all, as compiling takes longer than all else, and on the first network only."""


def run_steps(results: StageResults) -> None:
    """The section ``step_time``; what failed or is left out has no row."""
    start: dict[str, Any] = {
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
    steps = results.context.shapes.steps
    items = [*((case, name) for case in steps for name in NAMES), *((steps[0], name) for name in COMPILED)]
    section = results.section("step_time", start)
    for case, name in results.turns("steps", items):
        one = METHODS[name]
        found = results.attempt(f"{one.label}, {case.name}", partial(_time, one, case, results.context))
        if found is None:
            continue
        row = find(section["cases"], case.name)
        if row is None:
            row = {"name": case.name, "contenders": []}
            section["cases"].append(row)
        row["contenders"].append(found)
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
