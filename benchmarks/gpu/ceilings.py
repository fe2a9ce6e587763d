"""What this device reaches on plain work: the ceilings that kernels are held against."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from benchmarks.gpu.results import StageContext, StageResults
from benchmarks.timing import round_digits
from zo_triton.opcases.case import COPY, HALF_PRODUCT, TF32_PRODUCT


def run_ceilings(results: StageResults) -> None:
    """The section ``gpu_ceilings``."""
    context = results.context
    size = context.shapes.product
    start: dict[str, Any] = {
        "note": (
            f"Torch's own copy of {context.shapes.copy_bytes / 2**20:g} MiB, read and written bytes both counted, "
            f"and its product of two square matrices of {size} rows: medians by CUDA events. TF32 is float32 with "
            "operands rounded to ten bits, which our float32 kernels do not do unless told."
        ),
        "rows": [],
    }
    section = results.section("gpu_ceilings", start)
    for name, unit, measure in results.turns("ceilings", CEILINGS):
        value = results.attempt(name, partial(measure, context))
        shown = None if value is None else round_digits(value)
        section["rows"].append({"name": name, "unit": unit, "value": shown})
        results.put("gpu_ceilings", section)


def _copy(context: StageContext) -> float:
    """GB/s, reading and writing."""
    source = torch.zeros(context.shapes.copy_bytes, dtype=torch.uint8, device=context.device)
    target = torch.empty_like(source)
    taken = context.clock.seconds(lambda: target.copy_(source), context.shapes.seconds)
    return 2e-9 * context.shapes.copy_bytes / taken


def _product(context: StageContext, dtype: torch.dtype) -> float:
    """TFLOP/s."""
    context.need(dtype)
    size = context.shapes.product
    a, b = (torch.randn(size, size, device=context.device).to(dtype) for _ in range(2))
    out = torch.empty_like(a)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        taken = context.clock.seconds(lambda: torch.matmul(a, b, out=out), context.shapes.seconds)
    finally:
        torch.set_float32_matmul_precision(before)
    return 2e-12 * size**3 / taken


CEILINGS: tuple[tuple[str, str, Callable[[StageContext], float]], ...] = (
    (COPY, "GB/s", _copy),
    (HALF_PRODUCT, "TFLOP/s", partial(_product, dtype=torch.bfloat16)),
    (TF32_PRODUCT, "TFLOP/s", partial(_product, dtype=torch.float32)),
)
"""Name, unit, and what is measured."""
