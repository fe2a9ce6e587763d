"""Maxima over windows: the kernel against float64."""

import pytest
import torch
import triton
import triton.language as tl

from zo_triton import reference
from zo_triton.kernels.launch import launch
from zo_triton.kernels.numeric import divided
from zo_triton.kernels.windows import largest_difference


@pytest.mark.parametrize("planes", [1, 5, 103], ids=["one plane", "less than a block", "block and a bit"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_largest_difference(planes, dtype, device):
    generator = torch.Generator().manual_seed(planes)
    places = torch.randint(0, 19, (3, 7), generator=generator)
    difference = torch.randn(2, planes, 19, generator=generator).to(dtype)
    gaps = -torch.rand(planes, 3, 7, generator=generator)
    expected = torch.empty(2, planes, 7, dtype=torch.float64)
    reference.largest_difference(expected, difference, gaps, places)
    out = torch.full((2, planes, 7), torch.nan, dtype=dtype, device=device)
    largest_difference(out, difference.to(device), gaps.to(device), places.to(device))
    torch.testing.assert_close(
        out.cpu().double(), expected, rtol=2**-8 if dtype == torch.bfloat16 else 1e-6, atol=1e-7
    )


def test_nan_wins_and_strides_are_followed(device):
    places = torch.tensor([[0, 2], [1, 3]], device=device)
    difference = torch.zeros(2, 4, 3, device=device).transpose(1, 2)
    difference[1, 2, 3] = torch.nan
    out = torch.full((2, 2, 3), 7.0, device=device).transpose(1, 2)
    largest_difference(out, difference, torch.zeros(3, 2, 2, device=device), places)
    assert out.isnan().nonzero().tolist() == [[1, 2, 1]]
    assert out.nan_to_num().abs().max() == 0


@triton.jit
def _divided_kernel(out_ptr, start_ptr, size, BLOCK: tl.constexpr):
    offsets = tl.arange(0, BLOCK)
    quotient, rest = divided(tl.load(start_ptr), offsets, size)
    tl.store(out_ptr + offsets, quotient)
    tl.store(out_ptr + BLOCK + offsets, rest)


@pytest.mark.parametrize("size", [1, 7, 1000, 2**31 - 1, 2**33 + 1])
@pytest.mark.parametrize("start", [0, 2**40 + 2**32 - 9])
def test_places_beyond_32_bits_are_divided_right(start, size, device):
    out = torch.full((2, 16), -1, dtype=torch.int64, device=device)
    launch(
        _divided_kernel,
        1,
        out,
        out_ptr=out,
        start_ptr=torch.tensor([start], device=device),
        size=size,
        BLOCK=16,
    )
    elements = torch.arange(start, start + 16)
    assert out.cpu().tolist() == [(elements // size).tolist(), (elements % size).tolist()]
