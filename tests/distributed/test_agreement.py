import os
import subprocess
import sys

import pytest
import torch

from zo_triton.distributed import RankError
from zo_triton.distributed.agreement import checksum, compare, strangers
from zo_triton.distributed.errors import spell
from zo_triton.distributed.roll_call import ENDED, state_of


def test_checksum_sees_every_bit_and_the_order():
    a, b = torch.tensor([1.0, -0.0]), torch.tensor([2, 3])
    assert checksum([a, b]) == checksum([b], checksum([a]))
    assert checksum([a, b]) != checksum([b, a])
    assert checksum([a]) != checksum([torch.tensor([1.0, 0.0])])
    assert checksum([torch.tensor(1.5).bfloat16(), torch.arange(6.0).view(2, 3).t()]) == checksum(
        [torch.tensor(1.5).bfloat16(), torch.arange(6.0).view(2, 3).t().contiguous()]
    )


@pytest.mark.parametrize(
    ("column", "odd"),
    [([7, 7, 7], []), ([7, 8], [1]), ([7, 8, 8], [0]), ([1, 2, 1, 3], [1, 3]), ([4, 5, 5, 4], [1, 2])],
)
def test_strangers_are_those_that_differ_from_most(column, odd):
    assert strangers(column) == odd


def test_error_names_the_ranks_and_what_differs():
    def gather(mine):
        table = mine.repeat(4, 1)
        table[2, 0] += 1
        table[2, 1] += 1
        table[3, 1] += 1
        return table

    facts = {"weights": [torch.ones(3)], "batches": 5}
    with pytest.raises(
        RankError, match="rank 2 differs in weights, batches; rank 3 differs in batches"
    ) as info:
        compare(facts, gather, None, "at step 7")
    assert info.value.ranks == (2, 3)
    compare(facts, lambda mine: mine.repeat(4, 1), None, "at step 7")


def test_spelling():
    assert spell([3]) == "rank 3"
    assert spell([0, 2, 5]) == "ranks 0, 2 and 5"


def test_processes_that_run_and_that_have_ended():
    assert state_of(os.getpid()) == "R"
    child = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert state_of(child.pid) in ENDED  # ended, not yet waited for
    child.wait()
    assert state_of(child.pid) in ENDED
