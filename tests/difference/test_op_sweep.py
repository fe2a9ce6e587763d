"""Every operator that torch tests itself with: carried, announced, refused or constant, and never wrong."""

import os

import pytest

pytest.importorskip("expecttest", reason="torch's own list of operators imports it")

from torch.testing._internal.common_methods_invocations import op_db

import zo_triton as zo
from benchmarks.audit.spellings import SPELLINGS, cases, samples
from benchmarks.audit.sweep import CARRIED, WRONG, outcome

NIGHTLY = os.environ.get("ZO_TRITON_NIGHTLY") == "1"
ALWAYS = ("function", "method", "in place")
MANY = (*ALWAYS, "all arguments")
EVERY, SOME = 1000, 12
"""Samples of an operator at night, in these spellings and in the others."""
CASES = {
    f"{name}--{spelling}": case
    for spelling, those in cases(op_db).items()
    if NIGHTLY or spelling in ALWAYS
    for name, case in those.items()
}
NUMBERS = {spelling: EVERY if spelling in MANY else SOME for spelling in SPELLINGS}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CASES)
def test_no_difference_is_lost(name):
    case = CASES[name]
    with zo.use_engine("reference"):
        for sample in samples(case.op, NUMBERS[name.rpartition("--")[2]] if NIGHTLY else 1):
            word, why = outcome(case.function, sample, **case.options)
            assert word != WRONG, f"{sample}: {why}"


def test_the_sweep_finds_a_difference_that_vanishes():
    (op,) = (op for op in op_db if op.name == "exp")
    (sample,) = samples(op, 1)

    def lossy(x):
        return op.op(x + (x - x.detach().clone().requires_grad_(False)).new_tensor(x.sum().item()))

    with zo.use_engine("reference"):
        assert outcome(op.op, sample)[0] == CARRIED
        assert outcome(lossy, sample)[0] == WRONG
