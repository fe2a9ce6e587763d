"""Squares turned over between samples' rows and features' rows, bit for bit NumPy's float32."""

import numpy as np
import pytest
import torch

from zo_triton.cpu.arrays import as_array
from zo_triton.cpu.compiling import kernel
from zo_triton.cpu.signs import line_of_floats
from zo_triton.cpu.turning import CLASH, STAGED, add_to_rows, sum_of_rows

DTYPES = [torch.float32, torch.bfloat16]


@kernel
def _add(out, first, lanes, column, totals, bias, step):
    add_to_rows(out, first, lanes, column, totals, bias, step, line_of_floats(STAGED))


@kernel
def _sum(x, base, moved, first, lanes):
    sum_of_rows(x, base, moved, first, lanes)


def draw(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("lanes", [32, 21, 3], ids=["whole", "square-and-rest", "rest"])
@pytest.mark.parametrize("rows", [300, 128, 48, 5], ids=["pieces-and-rest", "piece", "squares", "rest"])
@pytest.mark.parametrize("clashing", [True, False])
def test_adds_what_lies_across(clashing, rows, lanes, dtype):
    """Rows whose lines meet in one set of the cache go another way."""
    features, column = CLASH // dtype.itemsize + (0 if clashing else 16), 32
    totals, bias, step = draw(rows, 32), draw(rows), torch.tensor(1e-3)
    out = draw(40, features).to(dtype)
    expected = out.clone()
    part = expected[4 : 4 + lanes, column : column + rows]
    part.copy_(part.float() + step * (totals + bias[:, None])[:, :lanes].T)
    _add(as_array(out), 4, lanes, column, totals.numpy(), bias.numpy(), np.float32(step))
    assert torch.equal(out, expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("lanes", [32, 21, 3], ids=["whole", "square-and-rest", "rest"])
@pytest.mark.parametrize("features", [70, 64, 5], ids=["squares-and-rest", "squares", "rest"])
def test_sums_come_to_lie_across(features, lanes, dtype):
    base, moved = draw(40, features), draw(40, features).to(dtype)
    x = torch.full((features, 32), 7.0)
    expected = x.clone()
    expected[:, :lanes] = (base + moved.float())[4 : 4 + lanes].T
    _sum(x.numpy(), base.numpy(), as_array(moved), 4, lanes)
    assert torch.equal(x, expected)
