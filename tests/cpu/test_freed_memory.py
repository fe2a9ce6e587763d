"""Kernels read no memory that they have freed, which glibc can overwrite at once; and what it keeps of it."""

import os
import platform
import subprocess
import sys

import pytest
from packaging.version import Version

SCRIPT = """
import torch
import torch.nn.functional as F

import zo_triton as zo

w, x = torch.randn(8, 8), torch.randn(2, 3, 20, 8)
images, kernels = torch.randn(2, 1, 12, 12), torch.randn(3, 1, 3, 3)
directions = zo.Directions(seed=1, step=2, num=3)

def rows(w):
    h = x @ w
    return ((h.mean(-1, keepdim=True).tanh() + h.sum(-1, keepdim=True).sigmoid()) * h).exp()

def pools(kernels):
    return F.max_pool2d(F.conv2d(images, kernels), 3, 2)

for function, parameter in ((rows, w), (pools, kernels)):
    with zo.use_engine("cpu"):
        found = zo.differences(lambda: function(parameter), [parameter], directions, 1e-2)[1]
    with zo.use_engine("reference"):
        expected = zo.differences(lambda: function(parameter), [parameter], directions, 1e-2)[1]
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5 * float(expected.abs().max()))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="MALLOC_PERTURB_ is glibc's")
def test_no_kernel_reads_what_it_freed():
    environment = {**os.environ, "MALLOC_PERTURB_": "165"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr


KEPT = """
import sys

import torch

from zo_triton import cpu
from zo_triton._memory import release_freed_memory


def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096 >> 20


before = resident()
tensor = torch.ones(40 << 20, dtype=torch.uint8)
del tensor
kept = resident() - before
release_freed_memory()
sys.stdout.write(f"{kept > 30} {resident() - before < 10}")
"""


LIBRARY, VERSION = platform.libc_ver()


@pytest.mark.skipif(
    LIBRARY != "glibc" or Version(VERSION) < Version("2.35"), reason="glibc allows it since 2.35"
)
@pytest.mark.parametrize(("limit", "keeps"), [({}, True), ({"MALLOC_MMAP_THRESHOLD_": "131072"}, False)])
def test_large_freed_blocks_stay_until_they_are_released(limit, keeps):
    """Unless the environment says what glibc shall keep."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    done = subprocess.run(
        [sys.executable, "-c", KEPT], env=environment | limit, capture_output=True, text=True, timeout=300
    )
    assert done.stdout == f"{keeps} True", done.stderr
