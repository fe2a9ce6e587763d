"""Milliseconds of one training step on a GPU, ours against what else a user could run there."""

from __future__ import annotations

from statistics import median
from typing import Any

from torch import nn

from benchmarks.contenders.contender import Contender, Method, Setting
from benchmarks.contenders.cuda_graphs import (
    Backprop,
    Passes,
    RecordedBackprop,
    RecordedZO,
    compiled,
)
from benchmarks.contenders.fused import FusedSGD
from benchmarks.contenders.mezo import MeZO
from benchmarks.contenders.vmap_ensemble import VmapEnsemble
from benchmarks.gpu.results import StageContext, StageResults
from benchmarks.measure.step_time import StepCase, example, setting
from benchmarks.timing import round_digits

RECORDED, EAGER, MEZO = "zo-graph", "zo", "mezo"
"""Names that goals are about."""


def contenders(context: StageContext, with_compiled: bool = True) -> list[Method]:
    """Ours first; what ``torch.compile`` makes comes last, if at all, because compiling takes longest."""
    dtype, tiny = context.dtype, context.tiny
    name = str(dtype).removeprefix("torch.")

    def compiled_mezo(model: nn.Module, s: Setting) -> Contender:
        stepper = MeZO(model, s)
        stepper.model = compiled(model, tiny)  # type: ignore[assignment]
        return stepper

    def compiled_vmap(model: nn.Module, s: Setting) -> Contender:
        stepper = VmapEnsemble(model, s)
        stepper.slopes = compiled(stepper.slopes, tiny)  # type: ignore[method-assign]
        return stepper

    def compiled_backprop(model: nn.Module, s: Setting) -> Any:
        stepper = Backprop(model, s, adam=False)
        stepper.model = compiled(model, tiny)  # type: ignore[assignment]
        return stepper

    rows: list[tuple[str, str, str, str, Any]] = [
        (
            RECORDED, "fused, one-sided, CUDA graph", "fused", name,
            lambda m, s: RecordedZO(m, s, dtype=dtype),
        ),
        (EAGER, "fused, one-sided", "fused", name, lambda m, s: FusedSGD(m, s, compute_dtype=dtype)),
        (
            "zo-central-graph", "fused, central, CUDA graph", "fused", name,
            lambda m, s: RecordedZO(m, s, sides=2, dtype=dtype),
        ),
        (MEZO, "MeZO loop", "zeroth", "float32", MeZO),
        ("vmap", "vmap, one-sided", "zeroth", "float32", VmapEnsemble),
        (
            "inference", "K inference passes, CUDA graph", "inference", name,
            lambda m, s: Passes(m, s.directions, dtype),
        ),
        ("sgd", "backprop + SGD", "first", "float32", lambda m, s: Backprop(m, s, adam=False)),
        (
            "sgd-graph", "backprop + SGD, CUDA graph", "first", "float32",
            lambda m, s: RecordedBackprop(m, s, adam=False),
        ),
    ]  # fmt: skip
    late: list[tuple[str, str, str, str, Any]] = [
        ("mezo-compiled", "MeZO loop, compiled passes", "zeroth", "float32", compiled_mezo),
        ("vmap-compiled", "vmap, one-sided, compiled", "zeroth", "float32", compiled_vmap),
        ("sgd-compiled", "backprop + SGD, compiled", "first", "float32", compiled_backprop),
    ]
    listed = (*rows, *(late if with_compiled else ()))
    return [Method(key, label, family, build, dtype) for key, label, family, dtype, build in listed]


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
        for one in contenders(results.context, with_compiled=case is results.context.shapes.steps[0]):
            found = results.attempt(
                f"{one.label}, {case.name}", lambda one=one, case=case: _time(one, case, results.context)  # type: ignore[misc]
            )  # fmt: skip
            if found is not None:
                row["contenders"].append(found)
            if row["contenders"]:
                section["cases"] = [*[each for each in section["cases"] if each["name"] != case.name], row]
                results.put("step_time", section)


def _time(one: Method, case: StepCase, context: StageContext) -> dict[str, Any]:
    model, x, y = example(case)
    x, y = x.to(context.device), y.to(context.device)
    contender = one.build(model.to(context.device), setting(case))
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
