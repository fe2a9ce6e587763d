"""Each kernel on its own: time, arithmetic and generated values a second, bytes a second."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from benchmarks.gpu.results import StageContext, StageResults
from benchmarks.timing import round_digits
from zo_triton import kernels
from zo_triton.opcases import Case, RandomOperands
from zo_triton.opcases.case import COPY, Arguments
from zo_triton.opcases.sizes import UPDATE_DIRECTIONS, Sizes

FLOAT, HALF = torch.float32, torch.bfloat16
ACCUMULATE = f"signs, K = {UPDATE_DIRECTIONS}"
NODE_LINEAR = "orthogonal signs, bfloat16"
"""The rows that goals are about."""


@dataclass(frozen=True)
class Row:
    """A row: a case and its name.

    Attributes:
        op: The operation.
        label: The case's.
        dtype: Left out on a chip that lacks it.
        case: From the sizes, and the dtype where the chip's own is asked for, to what is timed.
        bits: How the launcher comes by the signs; None where it has no choice or makes its own.
    """

    op: str
    label: str
    dtype: torch.dtype
    case: Callable[[Sizes, torch.dtype], Case]
    bits: str | None = None

    def call(self, case: Case, arguments: Arguments) -> Callable[[], None]:
        """What is timed, on the device of the arguments."""
        if self.bits is None:
            return partial(case.run, arguments)
        return partial(getattr(kernels, self.op), *arguments, bits=self.bits)


def run_kernels(results: StageResults) -> None:
    """The section ``gpu_kernels``."""
    sizes = results.context.shapes.sizes
    start: dict[str, Any] = {
        "note": (
            "Medians by CUDA events of calls in a CUDA graph, the signs' staging included. "
            "A product counts as defined, two operations a "
            "multiply-add, δWᵀ and (a+δ)Uᵀ for every evaluation, or aUᵀ alone in a first layer, where it serves "
            "both sides; folding does fewer. Where outputs are perturbed it is δWᵀ alone. Bytes are what must "
            "cross the memory's bus. *Of ceiling* is the rate "
            f"over the measured ceiling. Linear layers: batch {sizes.samples}, {sizes.inputs} to {sizes.outputs} "
            f"features, K = {sizes.directions}; `accumulate`: {sizes.update} rows and columns."
        ),
        "rows": [],
    }
    section = results.section("gpu_kernels", start)
    for one in results.turns("kernels", ROWS):
        row: dict[str, Any] = {"op": one.op, "case": one.label, "ms": None}
        found = results.attempt(f"{one.op}: {one.label}", partial(_time, one, results.context))
        section["rows"].append({**row, **(found or {})})
        results.put("gpu_kernels", section)


def compile_ahead(results: StageResults) -> None:
    """Runs each row once, so that its kernels lie in Triton's cache when they are timed; failures show then."""
    context = results.context
    for row in results.turns("compiled ahead", ROWS):
        if results.is_late or results.lost:
            continue
        with suppress(Exception):
            context.need(row.dtype)
            case = row.case(context.shapes.sizes, context.dtype)
            row.call(case, case.arguments(RandomOperands(context.device, context.seed)))()
            context.clock.wait()


def _time(row: Row, context: StageContext) -> dict[str, Any]:
    context.need(row.dtype)
    case = row.case(context.shapes.sizes, context.dtype)
    arguments = case.arguments(RandomOperands(context.device, context.seed))
    seconds = context.clock.device_seconds(row.call(case, arguments), context.shapes.seconds)
    if not case.result(arguments).isfinite().all():
        raise RuntimeError("the result is not finite: parts of it were never written.")
    work = case.work(arguments)
    # The rate that the ceiling limits, and how fast the generator runs.
    moves = work.ceiling == COPY
    rates = {
        "tflops": 0.0 if moves else 1e-12 * work.flops,
        "gvalues": 1e-9 * work.values,
        "gbytes": 1e-9 * work.bytes if moves else 0.0,
    }
    return {
        "ms": round_digits(1000 * seconds),
        **{name: round_digits(amount / seconds) if amount else None for name, amount in rates.items()},
        "ceiling": work.ceiling,
    }


def _linear(label: str, dtype: torch.dtype, bits: str | None = None, **options: Any) -> Row:
    return Row("perturbed_linear", label, dtype, lambda sizes, _: sizes.linear(dtype, **options), bits)


ROWS = (
    Row("stage", "signs, K = 32", FLOAT, lambda sizes, _: sizes.stage()),
    Row("sample", "signs, K = 4", FLOAT, lambda sizes, _: sizes.sample("rademacher")),
    Row("sample", "Gaussian, K = 4", FLOAT, lambda sizes, _: sizes.sample("gaussian")),
    Row("accumulate", ACCUMULATE, FLOAT, lambda sizes, _: sizes.accumulate("rademacher")),
    Row("accumulate", "Gaussian, K = 8", FLOAT, lambda sizes, _: sizes.accumulate("gaussian")),
    Row("accumulate", "whole network, signs", FLOAT, lambda sizes, _: sizes.network_update()),
    Row("gram", "signs, K = 32", FLOAT, lambda sizes, _: sizes.gram()),
    _linear("middle, signs, bfloat16", HALF),
    _linear("middle, signs staged, bfloat16", HALF, "staged"),
    _linear("middle, signs inline, bfloat16", HALF, "inline"),
    _linear("middle, both sides, bfloat16", HALF, sides=2),
    _linear("first, signs, bfloat16", HALF, first=True),
    _linear("first, both sides, bfloat16", HALF, sides=2, first=True),
    _linear("middle, Gaussian, bfloat16", HALF, distribution="gaussian"),
    _linear("middle, signs of rank 4, bfloat16", HALF, rank=4),
    _linear("middle, signs, float32", FLOAT),
    Row("perturbed_conv2d", "3 × 3, signs, K = 4", FLOAT, Sizes.convolution),
    Row("mlp_differences", "whole network, signs", FLOAT, lambda sizes, _: sizes.whole_network()),
    Row("node_linear", NODE_LINEAR, HALF, lambda sizes, _: sizes.node_linear(HALF)),
    Row("node_linear", "orthogonal signs, float32", FLOAT, lambda sizes, _: sizes.node_linear(FLOAT)),
    Row("node_conv2d", "3 × 3, orthogonal signs, K = 4", FLOAT, Sizes.node_convolution),
    Row("node_epilogue", "orthogonal signs", FLOAT, Sizes.node_epilogue),
    Row("node_gradient", "orthogonal signs", FLOAT, lambda sizes, _: sizes.node_gradient()),
    Row("node_sample", "orthogonal signs", FLOAT, lambda sizes, _: sizes.node_sample()),
    Row(
        "node_mlp_differences",
        "whole network, orthogonal signs",
        FLOAT,
        lambda sizes, _: sizes.node_network(),
    ),
    Row("activation_difference", "GELU", FLOAT, Sizes.activation),
    Row("cross_entropy_difference", "classes", FLOAT, lambda sizes, _: sizes.cross_entropy()),
    Row("largest_difference", "2 × 2 windows", FLOAT, lambda sizes, _: sizes.largest()),
)
