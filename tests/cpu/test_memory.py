"""A step's peak memory beyond inference, by the allocator's own account: under 1.5 activation differences."""

import json
import os
import platform
import subprocess
import sys

import pytest

from benchmarks.measure import peak_memory

SCRIPT = """
import json
import sys

import torch

from benchmarks.contenders.contender import Setting
from benchmarks.contenders.fused import FusedSGD
from benchmarks.measure.memory import CASES, chunk_bytes, excess

torch.set_num_threads(1)  # each further one that takes part has a quarter MiB of its own
ratios = {}
for case, _ in CASES:
    for dtype in (torch.bfloat16, torch.float32):
        build = lambda model, K: FusedSGD(model, Setting(1e-3, 0, K), compute_dtype=dtype, chunk=K)
        ratios[f"{case.name} {dtype}"] = excess(build, case).allocated / chunk_bytes(case, dtype)
sys.stdout.write(json.dumps(ratios))
"""
ATTENTION = """
import sys

import torch

from benchmarks.measure.peak_memory import Allocated
from zo_triton import ops

torch.set_num_threads(2)
values = [torch.randn(2, 4, 256, 16) for _ in range(3)]
changes = [torch.randn(16, 2, 4, 256, 16) for _ in range(3)]


def moved():
    arguments = (*values, None, None), (*changes, None), 16, 0.25, True, torch.float32
    return ops.attention_difference(values[0], *arguments)


moved()
with Allocated() as held:
    result = moved()
    peak = held.peak()
sys.stdout.write(f"{peak - result.nbytes} {16 * 2 * 4 * 256 * 256 * 4}")
"""
COUNTED = """
import sys

import torch

from benchmarks.measure.peak_memory import Allocated

held = torch.ones(3 * 2**20)
with Allocated() as first:
    del held
    held = torch.ones(2**20)
    less = first.peak()
with Allocated() as second:
    a = torch.ones(2**20)
    b = torch.ones(2**18)
    more = second.peak()
sys.stdout.write(f"{less} {more}")
"""

pytestmark = pytest.mark.skipif(
    platform.system() != "Linux" or platform.libc_ver()[0] != "glibc", reason="counts with glibc"
)


def run(script: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        env={**os.environ, **peak_memory.ENVIRONMENT},
        timeout=600,  # a hang ends too; compiling takes its time on a busy machine
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_step_stays_under_one_and_a_half_chunks():
    ratios = json.loads(run(SCRIPT))
    assert len(ratios) == 4
    # At least the chunk itself is there, so the account sees what it should.
    assert all(1 <= ratio <= 1.5 for ratio in ratios.values()), ratios


def test_attention_holds_a_few_blocks_of_scores_a_thread():
    beside, scores = (int(number) for number in run(ATTENTION).split())
    assert 0 < beside < 2 * 6 * 2**19 < scores / 4


def test_account_is_exact():
    first, second = (int(number) for number in run(COUNTED).split())
    # A freed block makes room: the peak stays below the 12 MiB that were held at the beginning.
    assert first <= 2**16
    assert 5 * 2**20 <= second <= 5 * 2**20 + 2**16


def test_a_process_that_glibc_does_not_count_for_is_refused(monkeypatch):
    monkeypatch.delenv("MALLOC_TOP_PAD_", raising=False)
    with pytest.raises(RuntimeError, match="started with"), peak_memory.Allocated():
        pass
