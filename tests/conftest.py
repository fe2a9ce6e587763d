"""Without a GPU the Triton kernels run in the interpreter, which must be chosen before Triton is imported."""

import gc
import os
import shutil
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

if shutil.which("nvidia-smi") is None and shutil.which("rocm-smi") is None:
    os.environ.setdefault("TRITON_INTERPRET", "1")

# Modules that tests share are imported by name, which pytest's importlib mode needs help with.
sys.path.insert(0, str(Path(__file__).parent))

import quick_interpreter

quick_interpreter.install()

# Properties try the same 100 inputs in every run; the nightly profile draws new ones, twenty times as many.
CALM = {
    "deadline": None,
    "suppress_health_check": [HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
}
settings.register_profile("ci", max_examples=100, derandomize=True, **CALM)
settings.register_profile("nightly", max_examples=2000, print_blob=True, **CALM)
NIGHTLY = os.environ.get("ZO_TRITON_NIGHTLY") == "1"
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE") or ("nightly" if NIGHTLY else "ci"))


MODULES = [0]
"""How many there were when the collector was last told of them."""


def pytest_runtest_setup():
    """Libraries and tests are here to stay: to look through them all again takes a fifth of a second each time."""
    if len(sys.modules) > MODULES[0] + 300:
        gc.collect()
        gc.freeze()
        MODULES[0] = len(sys.modules)


def pytest_sessionfinish():
    """Libraries that look at the end for what was left behind find nothing."""
    gc.unfreeze()


@pytest.fixture
def one_thread():
    """For tiny tensors: a second thread only spins, and for long where the processor is shared."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def untaped(monkeypatch):
    """No base pass is recorded: the closure runs once for each chunk of directions."""
    from zo_triton.difference import base_pass

    monkeypatch.setattr(base_pass, "TAPE_CPU", -1)
