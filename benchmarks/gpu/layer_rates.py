"""The cost of inference: evaluations of one wide layer a second, against plain passes through it."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from benchmarks.gpu.kernel_work import linear_work
from benchmarks.gpu.results import StageContext, StageResults
from benchmarks.timing import round_digits

PASSES = 20
"""In a CUDA graph."""

CASES = (
    # name, whether it is a first layer, sides, the largest share that the products alone allow
    ("middle layer, one-sided", False, 1, 1 / 2),
    ("middle layer, central pairs", False, 2, 1 / 3),
    ("first layer, one-sided", True, 1, 1.0),
    ("first layer, central pairs", True, 2, 1.0),
)


def run_layers(results: StageResults) -> None:
    """The section ``gpu_layers``."""
    context = results.context
    layer, dtype = context.shapes.layer, context.dtype
    name = str(dtype).removeprefix("torch.")
    section: dict[str, Any] = {
        "note": (
            f"One layer of {layer.inputs} to {layer.outputs} features in {name}, batch {layer.samples}, "
            f"K = {layer.directions} full-rank sign directions: evaluations (central: pairs of them) a second, "
            "with bias and ReLU, over plain passes a second: torch's linear layer with its bias and without an "
            f"activation, {PASSES} in a CUDA graph. *Limit*: one over the products that an evaluation takes at "
            "least."
        ),
        "pass_us": None,
        "rows": [],
    }
    seconds = results.attempt("plain passes", lambda: _pass_seconds(context))
    section["pass_us"] = None if seconds is None else round_digits(1e6 * seconds)
    results.put("gpu_layers", section)
    for label, first, sides, limit in CASES:

        def measure(first: bool = first, sides: int = sides) -> float:
            work = linear_work(context, layer, dtype, sides, first)
            return context.clock.seconds(work.action, context.shapes.seconds) / layer.directions

        taken = results.attempt(label, measure)
        share = None if taken is None or seconds is None else round_digits(seconds / taken, 3)
        rate = None if taken is None else round_digits(1 / taken)
        section["rows"].append(
            {"name": label, "per_second": rate, "share": share, "limit": round_digits(limit, 2)}
        )
        results.put("gpu_layers", section)


@torch.no_grad()
def _pass_seconds(context: StageContext) -> float:
    layer = context.shapes.layer
    x = torch.randn(layer.samples, layer.inputs, device=context.device).to(context.dtype)
    weight = torch.randn(layer.outputs, layer.inputs, device=context.device).to(context.dtype)
    bias = torch.zeros(layer.outputs, device=context.device, dtype=context.dtype)
    passes = context.clock.recorded(lambda: F.linear(x, weight, bias), PASSES)
    return context.clock.seconds(passes, context.shapes.seconds) / PASSES
