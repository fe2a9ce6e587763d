"""Forked processes, tried from one that has done nothing else.

Where torch has had threads at work, GNU's OpenMP hangs in a forked child at torch's own next parallel operation.
The process that runs the tests may have had them.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_process_may_be_forked_at_any_moment():
    cases = Path(__file__).with_name("fork_cases.py")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:benchmark", "-p", "no:cacheprovider", str(cases)],
        capture_output=True, text=True, check=False, timeout=900, env=environment, cwd=Path(__file__).parents[1],
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "14 passed" in done.stdout
