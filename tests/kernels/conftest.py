import os

import pytest
import torch


@pytest.fixture(scope="session")
def device() -> str:
    """Where the kernels run: the interpreter takes CPU tensors, compiled kernels a GPU's."""
    if os.environ.get("TRITON_INTERPRET") == "1":
        return "cpu"
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU, or TRITON_INTERPRET=1 before Python starts")
    return "cuda"


@pytest.fixture
def unwritten_is_nan():
    """New memory is full of NaN."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)
