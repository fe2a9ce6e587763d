"""What tests of rounded factors have in common: where there is such rounding, and what it makes of numbers."""

import pytest
import torch

from zo_triton.cpu.squares import most_parts

BACKEND = torch.backends.mkldnn
supported = pytest.mark.skipif(
    not (BACKEND.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()),
    reason="torch rounds no factor on this processor",
)
squares = pytest.mark.skipif(not most_parts(), reason="this processor has nothing for bfloat16")


def normal(*shape, seed=0):
    """Float32 normal numbers."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def exactly(tensor):
    """What a rounded factor is, in float64."""
    return tensor.bfloat16().double()
