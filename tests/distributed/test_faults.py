"""A rank that stops or ends at any moment, the first one too: all others end soon and say who it was.

The store is in rank 0, as without torchrun: it stops and ends with it.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from fault_program import CASES, SIZE


@pytest.fixture(scope="module")
def told():
    """What each rank that was left has said, by case."""
    program = Path(__file__).with_name("fault_program.py")
    done = subprocess.run(
        [sys.executable, str(program)], capture_output=True, text=True, check=False, env=dict(os.environ)
    )
    assert done.returncode == 0, done.stderr
    found = {case: {} for case in CASES}
    for line in done.stdout.splitlines():
        case, rank, *rest = json.loads(line)
        found[case][rank] = rest
    return found


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads a process's state as Linux gives it")
@pytest.mark.parametrize("case", CASES)
def test_all_others_name_the_one_and_end(told, case):
    moment, fault, odd = case.split()
    odd, found = int(odd), told[case]
    assert sorted(found) == [rank for rank in range(SIZE) if rank != odd], "some hang"
    for ranks, text, seconds in found.values():
        assert ranks == [odd], text
        assert f"rank {odd} of {SIZE} is" in text
        assert seconds < 60
        if fault == "ends" and moment != "start":
            assert "gone: its process has ended" in text or (odd == 0 and "is silent" in text)
        if fault == "stops" and moment != "start":
            assert "stopped: its process was suspended" in text or (odd == 0 and "is silent" in text)
