"""Address space from nothing to enough, and no threads to be had: a step happens, or a MemoryError says what helps.

Weights, optimizer, buffers, gradients and random state are those before or those after, the next step is as if
nothing was, and nothing hangs.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("limited_steps.py")
NIGHTLY = os.environ.get("ZO_TRITON_NIGHTLY") == "1"
NAMES = ["sgd", "trainer", "activations", "convolutions", "convolutions-trainer", "convolutions-activations",
         "black-box", "estimate"]  # fmt: skip
LIMITS = 100 if NIGHTLY else 4

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits a process as Linux does")


@pytest.mark.parametrize("name", NAMES if NIGHTLY else ["sgd", "trainer", "convolutions"])
def test_a_step_under_a_limit_happens_or_says_what_helps(name):
    done = subprocess.run(
        [sys.executable, str(PROGRAM), name, str(LIMITS)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONHASHSEED": "0"},
    )
    assert done.returncode == 0, done.stderr
    ends = json.loads(done.stdout)
    assert len(ends) == LIMITS + 2
    for end in ends:
        assert end["right"], end
        assert end["end"] == "done" or (
            end["end"].startswith("MemoryError: ") and "Use a smaller batch" in end["end"]
        ), end
        if end["room"] == -1:
            assert end["end"] == "done"
            assert end["bits"], end
