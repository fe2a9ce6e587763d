import pytest
import torch


@pytest.fixture(autouse=True)
def small_networks(one_thread):
    """The networks here are small enough for one thread."""


@pytest.fixture(autouse=True)
def uncompiled():
    """What torch.compile would compile runs as it is; compiling takes longer than all tests of a file."""
    with torch.compiler.set_stance("force_eager"):
        yield
