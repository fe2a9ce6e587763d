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
