"""How a step's cost grows with directions, batch and width, and what an evaluation costs beside plain inference."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np

from benchmarks.contenders.contender import Contender, Method
from benchmarks.contenders.registry import find_methods
from benchmarks.measure.step_time import StepCase, example, setting
from benchmarks.timing import alternate, round_digits

TIMED = ("zo", "zo-rank-1", "mezo", "sgd")
"""Whose cost is followed."""


@dataclass(frozen=True)
class CurvesConfig:
    """Where the curves are measured.

    Args:
        batches: Of the throughput's curve.
        network: Its widths.
        directions: Its K.
        axes: From "directions", "batch" or "width" to ascending values; the others stay as in ``middle``.
        middle: (K, batch, width of both hidden layers) that the cost curves share.
        seconds: Spent on each point, by all contenders together.
    """

    batches: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
    network: tuple[int, ...] = (784, 256, 256, 10)
    directions: int = 32
    axes: tuple[tuple[str, tuple[int, ...]], ...] = (
        ("directions", (8, 16, 32, 64, 128)),
        ("batch", (8, 32, 128, 512)),
        ("width", (64, 128, 256, 512, 1024)),
    )
    middle: tuple[int, int, int] = (16, 64, 256)
    seconds: float = 0.6


CONFIG = CurvesConfig()
TINY = CurvesConfig((1, 8), (64, 32, 10), 2, (("batch", (2, 8)), ("width", (8, 16))), (2, 4, 8), 0.02)


def run_curves(config: CurvesConfig, say: Callable[[str], None]) -> dict[str, Any]:
    """The record's section ``curves``."""
    note = (
        "*Throughput*: evaluations a second of a whole training step (draw, differences, update), over those of "
        "plain float32 forward passes of the same batch; above 1 a direction costs less than a forward pass. "
        "*Growth*: medians of one training step while one size grows and the others stay; the exponent is the "
        "slope of a straight line through the logarithms."
    )
    throughput = _throughput(config, say)
    return {
        "note": note,
        "throughput": throughput,
        "growth": [_growth(*axis, config, say) for axis in config.axes],
    }


def _throughput(config: CurvesConfig, say: Callable[[str], None]) -> dict[str, Any]:
    methods = find_methods(("inference", "zo", "zo-central"))
    rows = []
    for batch in config.batches:
        case = StepCase(config.network, batch, config.directions)
        say(f"throughput: {case.name}")
        plain, one_sided, central = _times(methods, case, config.seconds)
        # A one-sided step makes K evaluations, the others 2K; its base evaluation counts for nothing.
        rows.append(
            {
                "batch": batch,
                "one_sided": round_digits(plain / (2 * one_sided)),
                "central": round_digits(plain / central),
                "evaluations_per_s": round_digits(1000 * 2 * config.directions / central),
            }
        )
    network = "-".join(map(str, config.network))
    return {"network": network, "directions": config.directions, "rows": rows}


def _growth(
    axis: str, values: Sequence[int], config: CurvesConfig, say: Callable[[str], None]
) -> dict[str, Any]:
    methods = find_methods(TIMED)
    times: list[list[float]] = []
    for value in values:
        K, batch, width = (
            value if axis == name else given
            for name, given in zip(("directions", "batch", "width"), config.middle, strict=True)
        )
        case = StepCase((config.network[0], width, width, config.network[-1]), batch, K)
        say(f"growth: {case.name}")
        times.append(_times(methods, case, config.seconds))
    contenders = [
        {
            "name": method.name,
            "label": method.label,
            "family": method.family,
            "ms": [round_digits(each) for each in taken],
            "exponent": round_digits(float(np.polyfit(np.log(values), np.log(taken), 1)[0]), 2),
        }
        for method, taken in zip(methods, zip(*times, strict=True), strict=True)
    ]
    K, batch, width = config.middle
    fixed = {"directions": f"K = {K}", "batch": f"batch {batch}", "width": f"width {width}"}
    return {
        "axis": axis,
        "values": list(values),
        "fixed": ", ".join(text for name, text in fixed.items() if name != axis),
        "contenders": contenders,
    }


def _times(methods: Sequence[Method], case: StepCase, seconds: float) -> list[float]:
    """Median milliseconds of each method's step."""
    actions = []
    for method in methods:
        model, x, y = example(case)
        contender: Contender = method.build(model, setting(case))
        actions.append(lambda contender=contender, x=x, y=y: contender.step(x, y))
    return [1000 * median(taken) for taken in alternate(actions, seconds)]
