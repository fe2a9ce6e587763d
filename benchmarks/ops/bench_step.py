"""One training step: ours one-sided, central and low-rank, against what else a user could run."""

import pytest
import torch

from benchmarks.measure.gates import check_descent, check_differences
from benchmarks.measure.step_time import CASES, LR, TINY_CASES, contenders, example, setting

TURNS = [(number, one) for number, case in enumerate(CASES) for one in contenders(case)]
# They climb ranks with Adam: how far a step goes along the gradient is not theirs to promise.
UNGATED = ("inference", "evosax", "evotorch")


@pytest.mark.parametrize(
    ("number", "contender"), TURNS, ids=[f"{number}-{one.name}" for number, one in TURNS]
)
def bench_step(zo_measure, zo_tiny, number, contender):
    if zo_tiny and number >= len(TINY_CASES):
        pytest.skip("one case is enough to prove that it runs")
    case = (TINY_CASES if zo_tiny else CASES)[number]
    if contender.family == "fused":
        check_differences(case, getattr(torch, contender.dtype))
    if contender.name not in UNGATED:
        check_descent(contender.label, contender.build, case, LR)
    model, x, y = example(case)
    built = contender.build(model, setting(case))
    zo_measure(
        f"step: {case.name}",
        lambda: built.step(x, y),
        K=case.directions,
        batch=case.batch,
        evaluations=built.evaluations_per_step,
        dtype=contender.dtype,
    )
