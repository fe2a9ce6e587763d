"""The cost of inference: evaluations of one wide layer a second, against plain passes through it."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F

from benchmarks.gpu.results import StageContext, StageResults
from benchmarks.timing import IN_A_GRAPH, round_digits
from zo_triton.opcases import RandomOperands

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
    sizes, dtype = context.shapes.sizes, context.dtype
    name = str(dtype).removeprefix("torch.")
    start: dict[str, Any] = {
        "note": (
            f"One layer of {sizes.inputs} to {sizes.outputs} features in {name}, batch {sizes.samples}, "
            f"K = {sizes.directions} full-rank sign directions: evaluations (central: pairs of them) a second, "
            "with bias and ReLU, over plain passes a second: torch's linear layer with its bias and without an "
            f"activation; both {IN_A_GRAPH} in a CUDA graph. *Limit*: one over the products that an evaluation "
            "takes at least."
        ),
        "pass_us": None,
        "rows": [],
    }
    section = results.section("gpu_layers", start)
    seconds = results.attempt("plain passes", lambda: _pass_seconds(context))
    section["pass_us"] = None if seconds is None else round_digits(1e6 * seconds)
    results.put("gpu_layers", section)
    for label, first, sides, limit in results.turns("layers", CASES):

        def measure(first: bool = first, sides: int = sides) -> float:
            case = sizes.linear(dtype, sides=sides, first=first)
            action = partial(case.run, case.arguments(RandomOperands(context.device, context.seed)))
            return context.clock.device_seconds(action, context.shapes.seconds) / sizes.directions

        taken = results.attempt(label, measure)
        share = None if taken is None or seconds is None else round_digits(seconds / taken, 3)
        rate = None if taken is None else round_digits(1 / taken)
        section["rows"].append(
            {"name": label, "per_second": rate, "share": share, "limit": round_digits(limit, 2)}
        )
        results.put("gpu_layers", section)


@torch.no_grad()
def _pass_seconds(context: StageContext) -> float:
    case = context.shapes.sizes.linear(context.dtype, first=True)
    _, base, _, weight, *_ = case.arguments(RandomOperands(context.device, context.seed))
    x, weight = base.to(context.dtype), weight.to(context.dtype)
    bias = torch.zeros(len(weight), device=context.device, dtype=context.dtype)
    return context.clock.device_seconds(lambda: F.linear(x, weight, bias), context.shapes.seconds)
