"""float32 numbers as sums of bfloat16 ones."""

import pytest
import torch

from zo_triton.kernels.exact_products import write_parts

# The bits of the largest and smallest exponents whose last part is still a normal number, and of what lies between.
SCALES = [2.0**-100, 1e-6, 1.0, 2.0**126]


@pytest.mark.parametrize("scale", SCALES)
def test_parts_have_every_digit(scale, device):
    generator = torch.Generator().manual_seed(1)
    sources = [scale * torch.rand(shape, generator=generator) - scale / 2 for shape in ((17, 65), (1, 1))]
    sources[0][3, :4] = torch.tensor([0.0, scale, -scale * (1 + 2**-23), scale * (1 - 2**-24)])
    shapes = [(17, 96), (32, 32)]
    for parts, source, (height, width) in zip(
        write_parts([source.to(device) for source in sources], shapes), sources, shapes, strict=True
    ):
        assert parts.shape == (3, height, width)
        assert parts.dtype == torch.bfloat16
        whole = torch.zeros(height, width, dtype=torch.float64)
        whole[: source.shape[0], : source.shape[1]] = source.double()
        assert torch.equal(parts.cpu().double().sum(0), whole)


@pytest.mark.parametrize(("scale", "bound"), [(2.0**-110, 0.0), (2.0**-111, 2.0**-134), (1e-36, 2.0**-134)])
def test_below_the_least_bfloat16_digits_go_one_by_one(scale, bound, device):
    source = scale * (1 + torch.rand((16, 64), generator=torch.Generator().manual_seed(1)))
    source[0, 0] = scale * (1 + 2**-23)
    (parts,) = write_parts([source.to(device)], [(16, 64)])
    off = (parts.cpu().double().sum(0) - source.double()).abs().max()
    assert off <= bound
    assert (off > 0) == (bound > 0)


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")  # NumPy's, in the interpreter
@pytest.mark.parametrize("number", [float("inf"), -float("inf"), float("nan"), 3.4e38])
def test_what_bfloat16_does_not_hold_is_no_number(number, device):
    source = torch.zeros(16, 64)
    source[3, 5] = number
    (parts,) = write_parts([source.to(device)], [(16, 64)])
    whole = parts.cpu().double().sum(0)
    assert whole[3, 5].isnan()
    assert torch.equal(whole.nan_to_num(0.0), torch.zeros(16, 64, dtype=torch.float64))
