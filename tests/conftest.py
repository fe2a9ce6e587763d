"""Without a GPU the Triton kernels run in the interpreter, which must be chosen before Triton is imported."""

import os
import shutil
import sys
from pathlib import Path

import pytest

if shutil.which("nvidia-smi") is None and shutil.which("rocm-smi") is None:
    os.environ.setdefault("TRITON_INTERPRET", "1")

# Modules that tests share are imported by name, which pytest's importlib mode needs help with.
sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def one_thread():
    """For tiny tensors: a second thread only spins, and for long where the processor is shared."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
