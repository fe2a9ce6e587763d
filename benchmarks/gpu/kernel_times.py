"""Each kernel on its own: time, arithmetic and generated values a second, bytes a second."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.gpu import kernel_work as work
from benchmarks.gpu.results import StageContext, StageResults
from benchmarks.timing import round_digits

FLOAT, HALF = torch.float32, torch.bfloat16
ACCUMULATE = f"signs, K = {work.UPDATE_DIRECTIONS}"
"""The row that a goal is about."""


@dataclass(frozen=True)
class Case:
    """A row: an operation and how its work is made.

    Attributes:
        op: The operation.
        label: The case.
        dtype: Left out on a chip that lacks it.
        make: From the context to the work.
    """

    op: str
    label: str
    dtype: torch.dtype
    make: Callable[[StageContext], work.Work]


def run_kernels(results: StageResults) -> None:
    """The section ``gpu_kernels``."""
    layer = results.context.shapes.layer
    section: dict[str, Any] = {
        "note": (
            "Medians by CUDA events, the signs' staging included. A product counts as defined, two operations a "
            "multiply-add, δWᵀ and (a+δ)Uᵀ for every evaluation, or aUᵀ alone in a first layer, where it serves "
            "both sides; folding does fewer. Bytes are what must cross the memory's bus. *Of ceiling* is the rate "
            f"over the measured ceiling. Linear layers: batch {layer.samples}, {layer.inputs} to {layer.outputs} "
            f"features, K = {layer.directions}; `accumulate`: {results.context.shapes.update} rows and columns."
        ),
        "rows": [],
    }
    for case in CASES:
        row: dict[str, Any] = {"op": case.op, "case": case.label, "ms": None}
        found = results.attempt(f"{case.op}: {case.label}", lambda case=case: _time(case, results.context))  # type: ignore[misc]
        section["rows"].append({**row, **(found or {})})
        results.put("gpu_kernels", section)


def _time(case: Case, context: StageContext) -> dict[str, Any]:
    context.need(case.dtype)
    task = case.make(context)
    seconds = context.clock.seconds(task.action, context.shapes.seconds)
    if not task.result.isfinite().all():
        raise RuntimeError("the result is not finite: parts of it were never written.")
    rates = {"tflops": 1e-12 * task.flops, "gvalues": 1e-9 * task.values, "gbytes": 1e-9 * task.bytes}
    return {
        "ms": round_digits(1000 * seconds),
        **{name: round_digits(amount / seconds) if amount else None for name, amount in rates.items()},
        "ceiling": task.ceiling,
    }


CASES = (
    Case("stage", "signs, K = 32", FLOAT, work.stage),
    Case("sample", "signs, K = 4", FLOAT, work.sample("rademacher")),
    Case("sample", "Gaussian, K = 4", FLOAT, work.sample("gaussian")),
    Case("accumulate", ACCUMULATE, FLOAT, work.accumulate("rademacher")),
    Case("accumulate", "Gaussian, K = 8", FLOAT, work.accumulate("gaussian")),
    Case("gram", "signs, K = 32", FLOAT, work.gram),
    Case("perturbed_linear", "middle, signs, bfloat16", HALF, work.linear(HALF)),
    Case("perturbed_linear", "middle, both sides, bfloat16", HALF, work.linear(HALF, sides=2)),
    Case("perturbed_linear", "first, signs, bfloat16", HALF, work.linear(HALF, first=True)),
    Case("perturbed_linear", "first, both sides, bfloat16", HALF, work.linear(HALF, sides=2, first=True)),
    Case("perturbed_linear", "middle, Gaussian, bfloat16", HALF, work.linear(HALF, distribution="gaussian")),
    Case("perturbed_linear", "middle, signs of rank 4, bfloat16", HALF, work.linear(HALF, rank=4)),
    Case("perturbed_linear", "middle, signs, float32", FLOAT, work.linear(FLOAT)),
    Case("perturbed_conv2d", "3 × 3, signs, K = 4", FLOAT, work.convolution),
    Case("mlp_differences", "whole network, signs", FLOAT, work.mlp),
    Case("activation_difference", "GELU", FLOAT, work.activation),
    Case("cross_entropy_difference", "classes", FLOAT, work.cross_entropy),
    Case("largest_difference", "2 × 2 windows", FLOAT, work.largest),
)
