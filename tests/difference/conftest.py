"""The tests here import their oracle by name, which pytest's importlib mode needs help with."""

import sys
from pathlib import Path

import pytest

from zo_triton.difference.chains import pending

sys.path.insert(0, str(Path(__file__).parent))

from chain_programs import GENERATOR


@pytest.fixture(autouse=True)
def small_tensors(one_thread):
    """The tensors here are small enough for one thread."""


@pytest.fixture
def programs(monkeypatch):
    """The results of the programs that run: how many of each."""
    counted = []
    run = pending._Linked.run

    def counting(self):
        counted.append(self)
        return run(self)

    monkeypatch.setattr(pending._Linked, "run", counting)
    return counted


@pytest.fixture(autouse=True)
def same_numbers():
    """What a test of chains draws depends on no test before it, of which a worker may have had any."""
    GENERATOR.manual_seed(0)
