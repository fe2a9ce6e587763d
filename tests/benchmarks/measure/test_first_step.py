"""Seconds to the first step, and what was compiled for it."""

import numba
from numba.core import event

from benchmarks.measure import first_step
from zo_triton._files import cache_folder
from zo_triton._first_steps import STEPS
from zo_triton.cpu.compiling import device


@device
def inner(x):
    """Compiled as a part of the kernel."""
    return 2 * x


def outer(x):
    """The kernel."""
    return inner(x) + 1


def test_kernels_count_that_are_compiled_and_not_what_they_call():
    noted = first_step.Compilations()
    with event.install_listener("numba:compile", noted):
        numba.njit(outer).compile((numba.int64,))
    assert [name for name, _ in noted.found] == ["outer"]


def test_a_warm_start_compiles_nothing():
    STEPS["mlp"]()
    start = first_step.start("mlp", "warm", str(cache_folder()))
    assert (start.program, start.cache, start.kernels, start.slowest) == ("mlp", "warm", 0, [])
    assert start.cpu_seconds > 0
    assert start.seconds > 0
