"""Sums of batched products: of rounded factors where torch allows it, however they lie."""

import pytest
import torch
from factors import exactly, normal, squares, supported

from zo_triton.cpu import batched_product


@supported
@pytest.mark.usefixtures("medium")
@pytest.mark.parametrize("parts", [pytest.param(1, marks=squares), 0])
@pytest.mark.parametrize("shape", [(3, 5, 7, 9), (2, 64, 32, 32), (2, 33, 100, 65)], ids=str)
def test_small_products_are_those_of_rounded_factors(shape, parts, monkeypatch):
    monkeypatch.setattr(batched_product, "most_parts", lambda: parts)
    count, rows, inner, columns = shape
    shared = normal(1, columns, inner, seed=1).mT.expand(count, -1, -1)
    apart = normal(count, inner, columns, seed=2)
    pairs = [(normal(count, rows, 2, inner)[:, :, 0], shared), (normal(count, rows, inner, seed=3), apart)]
    out = torch.full((count, rows, columns), torch.nan)
    batched_product.sum_of_products(out, pairs, 0.25)
    expected = 0.25 * sum(exactly(left) @ exactly(right) for left, right in pairs)
    assert (out - expected).norm() <= 1e-6 * expected.norm()


LYING = {
    "turned-left": lambda left, right: (left.mT.contiguous().mT, right),
    "turned-right": lambda left, right: (left, right.mT.contiguous().mT),
    "every-other": lambda left, right: (
        left.repeat_interleave(2, 2)[..., ::2],
        right.repeat_interleave(2, 2)[..., ::2],
    ),
    "one-row-for-all": lambda left, right: (left[:, :1].expand(-1, 40, -1), right[:, :1].expand(-1, 40, -1)),
    "one-matrix-for-all": lambda left, right: (left[:1].expand(3, -1, -1), right[:1].expand(3, -1, -1)),
    "one-column": lambda left, right: (left, right[..., 5:6]),
}


@squares
@supported
@pytest.mark.usefixtures("medium")
@pytest.mark.parametrize("lie", LYING.values(), ids=LYING)
def test_small_products_are_the_same_however_the_factors_lie(lie):
    left, right = lie(normal(3, 40, 40), normal(3, 40, 40, seed=1))
    out = torch.full((3, left.shape[1], right.shape[2]), torch.nan)
    batched_product.sum_of_products(out, [(left, right)], 1.0)
    expected = exactly(left) @ exactly(right)
    assert (out - expected).norm() <= 1e-6 * expected.norm()
