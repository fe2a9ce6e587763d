"""Maxima over windows against float64: tables with and without runs, odd sizes, what is not a number."""

import pytest
import torch
import torch.nn.functional as F

from zo_triton import cpu, reference

TABLES = {
    "every second place": torch.tensor([[0, 2, 4, 12, 14, 16], [1, 3, 5, 13, 15, 17]]),
    "neighbours": torch.tensor([[0, 1, 2, 3, 7, 8], [4, 5, 6, 7, 11, 12], [1, 2, 3, 4, 8, 9]]),
    "scattered": torch.tensor([[0, 3, 18, 2], [5, 5, 1, 17]]),
    "one result": torch.tensor([[4], [9], [18]]),
    "more than a vector in a row": torch.arange(40).view(2, 20) % 19,
}


@pytest.mark.parametrize("places", TABLES.values(), ids=TABLES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_largest_difference(places, dtype):
    generator = torch.Generator().manual_seed(0)
    difference = torch.randn(3, 5, 19, generator=generator).to(dtype)
    gaps = -torch.rand(5, *places.shape, generator=generator)
    out = torch.full((3, 5, places.shape[1]), torch.nan, dtype=dtype)
    cpu.largest_difference(out, difference, gaps, places)
    expected = torch.empty(out.shape, dtype=torch.float64)
    reference.largest_difference(expected, difference, gaps, places)
    torch.testing.assert_close(
        out.double(), expected, rtol=2**-8 if dtype == torch.bfloat16 else 1e-6, atol=1e-7
    )


def test_layouts_that_are_not_contiguous():
    places = TABLES["every second place"]
    difference, gaps = torch.randn(4, 19, 3).transpose(1, 2), -torch.rand(2, 6, 3).permute(2, 0, 1)
    expected = torch.empty(4, 3, 6, dtype=torch.float64)
    reference.largest_difference(expected, difference, gaps, places)
    out = torch.full((4, 6, 3), torch.nan).transpose(1, 2)
    cpu.largest_difference(out, difference, gaps, places)
    torch.testing.assert_close(out.double(), expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("position", [0, 1], ids=["first", "last"])
def test_nan_wins_wherever_it_stands(position):
    difference = torch.zeros(1, 1, 4)
    difference[0, 0, position] = torch.nan
    out = torch.zeros(1, 1, 2)
    cpu.largest_difference(out, difference, torch.zeros(1, 2, 2), torch.tensor([[0, 2], [1, 3]]))
    assert out[0, 0].isnan().tolist() == [True, False]


def test_agrees_with_torchs_own_maxima():
    x, step = torch.randn(2, 3, 6, 6), torch.randn(2, 3, 6, 6)
    corner = torch.tensor([0, 2, 4, 12, 14, 16, 24, 26, 28])
    places = torch.stack([corner, corner + 1, corner + 6, corner + 7])
    base = F.max_pool2d(x, 2)
    gaps = x.view(6, 36)[:, places] - base.view(6, 1, 9)
    out = torch.empty(1, 6, 9)
    cpu.largest_difference(out, step.view(1, 6, 36), gaps, places)
    torch.testing.assert_close(out.view_as(base), F.max_pool2d(x + step, 2) - base, rtol=1e-5, atol=1e-6)
