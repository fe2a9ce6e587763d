"""Each fused op over directions, batch and width, against plain torch and the machine's ceilings."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from benchmarks.measure.gates import GateError
from benchmarks.ops.cases import DTYPE, OPS, Point
from zo_triton import ops
from zo_triton.opcases import Arguments, Case, RandomOperands

# A few roundings of the compute dtype, relative to the largest value.
TOLERANCE = 2e-2 if torch.bfloat16 == DTYPE else 1e-4

MIDDLE, TINY = Point(32, 128, 256), Point(2, 32, 40)
AXES = {"K": (8, 128), "batch": (32, 512), "width": (64, 1024)}
POINTS = {
    "middle": MIDDLE,
    **{
        f"{axis}={value}": replace(MIDDLE, **{axis: value})
        for axis, values in AXES.items()
        for value in values
    },
}

TURNS = [
    (name, contender, place)
    for name, op in OPS.items()
    for place in POINTS
    for contender in ("fused", "torch")
    if place == "middle" or place.split("=")[0] in op.axes
]


def arguments_of(case: Case) -> Arguments:
    return case.arguments(RandomOperands("cpu", seed=0))


def gate(name: str, at: Point) -> None:
    """The device's engine and the float64 reference must agree on the first two directions."""
    arguments = arguments_of(OPS[name].case(replace(at, K=2)))
    fast = OPS[name].fused(arguments).clone()  # an update writes to the same tensor again
    with ops.use_engine("reference"):
        exact = OPS[name].fused(arguments)
    error = ((fast.double() - exact.double()).abs().max() / exact.double().abs().max()).item()
    if not error <= TOLERANCE:
        raise GateError(f"{name} differs from the reference by {error:.2g} of the largest value.")


@pytest.mark.parametrize(("name", "contender", "place"), TURNS, ids=["-".join(turn) for turn in TURNS])
def bench_op(zo_measure, peaks, zo_tiny, name, contender, place):
    if zo_tiny and place != "middle":
        pytest.skip("one point is enough to prove that it runs")
    at, op = TINY if zo_tiny else POINTS[place], OPS[name]
    case = op.case(at)
    arguments = arguments_of(case)
    extra = {"op": name, "contender": contender, "K": at.K, "batch": at.batch, "width": at.width}
    if contender == "torch":
        zo_measure(f"op: {name}, {place}", op.plain(case, arguments), **extra)
        return
    gate(name, at)
    work = case.work(arguments)
    gflop = 1e-9 * work.least_flops
    done = zo_measure(f"op: {name}, {place}", lambda: op.fused(arguments), gflop=gflop, **extra)
    if done.stats is not None:
        least = peaks.seconds(gflop, 1e-6 * work.bytes)
        done.extra_info["roofline"] = float(f"{least / done.stats.stats.median:.3g}")
