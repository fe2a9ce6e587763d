"""The tests here import what starts ranks by name, which pytest's importlib mode needs help with."""

import sys
from pathlib import Path

import pytest
import torch.distributed as dist

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True)
def like_a_rank(one_thread):
    """As many threads as torchrun gives a rank: another number cuts some sums in another way."""


@pytest.fixture
def alone(tmp_path):
    """A process group of this process."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()
