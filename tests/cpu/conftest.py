"""Torch's precision switches, put back behind each test that turns them; ``factors`` is imported by its name."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def _precision():
    yield
    torch.set_float32_matmul_precision("highest")
    torch.backends.mkldnn.conv.fp32_precision = "none"


@pytest.fixture
def medium(_precision):
    """Factors are rounded to bfloat16."""
    torch.set_float32_matmul_precision("medium")
