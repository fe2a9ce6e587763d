"""Every operator that torch tests itself with: carried, announced, refused or constant, and never wrong."""

import os

import pytest

pytest.importorskip("expecttest", reason="torch's own list of operators imports it")

from op_sweep import CARRIED, WRONG, outcome, samples
from torch.testing._internal.common_methods_invocations import op_db

import zo_triton as zo

NIGHTLY = os.environ.get("ZO_TRITON_NIGHTLY") == "1"

INCOMPARABLE = {
    "bfloat16": "the cast's difference is that before rounding, as that of a layer in bfloat16 is",
    "half": "the same",
    "chalf": "the same",
    "float": "it rounds float64's values to float32 too",
    "cfloat": "the same",
    "linspace": "its float32 result steps in float64's place too",
    "logspace": "the same",
    "empty_like": "its values are nobody's",
    "new_empty": "the same",
    "new_empty_strided": "the same",
    "nn.functional.embedding": "max_norm renormalises the table in place: refused in other words",
    "grid_sampler_3d": "minutes of samples; nn.functional.grid_sample has them too",
}
"""Entries without a value to compare with, and why."""

FORMS = {"function": "op", "method": "method_variant", "inplace": "inplace_variant"}
CASES = {
    f"{op.name}{'-' if op.variant_test_name else ''}{op.variant_test_name}-{form}": (
        op,
        getattr(op, attribute),
    )
    for op in op_db
    if op.name not in INCOMPARABLE
    for form, attribute in FORMS.items()
    if getattr(op, attribute) is not None
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CASES)
def test_no_difference_is_lost(name):
    op, function = CASES[name]
    with zo.use_engine("reference"):
        for sample in samples(op, 1000 if NIGHTLY else 1):
            word, why = outcome(function, sample)
            assert word != WRONG, f"{sample}: {why}"


def test_the_sweep_finds_a_difference_that_vanishes():
    (op,) = (op for op in op_db if op.name == "exp")
    (sample,) = samples(op, 1)

    def lossy(x):
        return op.op(x + (x - x.detach().clone().requires_grad_(False)).new_tensor(x.sum().item()))

    with zo.use_engine("reference"):
        assert outcome(op.op, sample)[0] == CARRIED
        assert outcome(lossy, sample)[0] == WRONG
