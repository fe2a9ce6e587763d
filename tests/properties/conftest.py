"""The inputs that properties draw from, imported by name, which pytest's importlib mode needs help with."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True)
def small_tensors(one_thread):
    """The tensors here are small enough for one thread."""
