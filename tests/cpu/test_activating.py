"""Rules of activations apart from the kernels that use them: the same bits, and compiled only where one runs."""

import subprocess
import sys

import numpy as np
import pytest
from numba import uintp
from numba.core.errors import TypingError

from zo_triton.cpu.activating import activate, kind_of
from zo_triton.cpu.activation import NAMES, activate_simply
from zo_triton.cpu.apart import call_at
from zo_triton.cpu.compiling import kernel

RELU_ALONE = """
import torch, zo_triton as zo
from zo_triton.cpu import activating
model = torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
x, y = torch.randn(16, 5), torch.randint(3, (16,))
opt = zo.ZOSGD(model.parameters(), lr=0.1, directions=8)
opt.step(lambda: torch.nn.functional.cross_entropy(model(x), y))
print(sum(len(rule.signatures) for rule in activating._APART.values()))
"""


@kernel
def _apart(steps, a, first, second, at, count, kind):
    activate(steps, a, first, second, uintp(at), count, kind)


@kernel
def _inside(steps, a, first, second, at, count, kind):
    activate_simply(steps, a, first, second, uintp(at), count, kind)


def test_kinds_are_small_numbers_or_addresses():
    kinds = [kind_of(name) for name in NAMES]
    assert kinds[:2] == [0, 1]
    assert min(kinds[2:]) > len(NAMES)
    assert len(set(kinds)) == len(NAMES)


@pytest.mark.parametrize("longest", [1e-3, 3.0, 60.0], ids=["short", "long", "far"])
@pytest.mark.parametrize("name", sorted(set(NAMES) - {"gelu"}))
def test_a_rule_apart_has_the_bits_of_the_rule_in_the_kernel(name, longest):
    """From an offset on, for a count that fills no register, and without a touch of what is beyond it."""
    draws = np.random.default_rng(0)
    a, first, second = draws.normal(size=(3, 50)).astype(np.float32)
    there = (longest * draws.normal(size=37)).astype(np.float32)
    here = there.copy()
    _apart(there, a, first, second, 13, 35, kind_of(name))
    _inside(here, a, first, second, 13, 35, NAMES.index(name))
    np.testing.assert_array_equal(there, here)


def test_a_network_of_relu_compiles_no_other_rule():
    done = subprocess.run([sys.executable, "-c", RELU_ALONE], capture_output=True, text=True)
    assert done.stdout == "0\n", done.stderr


def test_code_apart_refuses_arrays_with_gaps():
    @kernel
    def call(address, array):
        call_at(uintp(address), array, array, array, array, uintp(0), 1)

    @kernel
    def call_with_gaps(address, array):
        gaps = array[::2]
        call_at(uintp(address), gaps, gaps, gaps, gaps, uintp(0), 1)

    with pytest.raises(TypingError, match="contiguous arrays of float32, got array\\(float32, 1d, A\\)"):
        call_with_gaps(0, np.zeros(4, np.float32))
    with pytest.raises(TypingError, match="contiguous arrays of float32, got array\\(float64, 1d, C\\)"):
        call(0, np.zeros(4))
