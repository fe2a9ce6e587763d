"""One training step: ours one-sided, central and low-rank, against what else a user could run."""

import pytest
import torch

from zo_triton.experiments.fused import FusedSGD, hardware_dtype
from zo_triton.experiments.gates import check_descent, check_differences
from zo_triton.experiments.step_time import CASES, EPS, LR, TINY_CASES, StepContender, contenders, example

LOW_RANK = StepContender(
    "zo-rank-1",
    "fused, one-sided, rank 1",
    "fused",
    str(hardware_dtype()).removeprefix("torch."),
    lambda model, count: FusedSGD(model, LR, 0, count, EPS, rank=1),
)
TURNS = [(number, one) for number, case in enumerate(CASES) for one in (*contenders(case), LOW_RANK)]


@pytest.mark.parametrize(
    ("number", "contender"), TURNS, ids=[f"{number}-{one.name}" for number, one in TURNS]
)
def bench_step(measure, tiny, number, contender):
    if tiny and number >= len(TINY_CASES):
        pytest.skip("one case is enough to prove that it runs")
    case = (TINY_CASES if tiny else CASES)[number]
    if contender.family == "fused":
        check_differences(case, getattr(torch, contender.dtype))
    if contender.family != "inference":
        check_descent(contender.label, contender.build, case, LR)
    model, x, y = example(case)
    built = contender.build(model, case.directions)
    measure(
        f"step: {case.name}",
        lambda: built.step(x, y),
        K=case.directions,
        batch=case.batch,
        evaluations=built.evaluations_per_step,
        dtype=contender.dtype,
    )
