"""Under torchrun, which keeps the store and ends all ranks when one has failed."""

import sys
from pathlib import Path
from threading import Timer

import pytest
from rank_launch import SECONDS, process_of, torchrun

PROGRAM = Path(__file__).with_name("torchrun_program.py")


@pytest.fixture
def launched(request):
    """The launcher of two ranks, which is told to end them if they are there for too long."""
    with torchrun(2, PROGRAM, request.param) as launcher:
        watchdog = Timer(SECONDS, launcher.terminate)
        watchdog.start()
        yield launcher
        watchdog.cancel()
        launcher.terminate()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads a process's state as Linux gives it")
@pytest.mark.parametrize("launched", ["stops"], indirect=True)
def test_a_stopped_rank_is_named_and_all_end(launched):
    """torchrun would wait 30 s for it to end, which it does as soon as it goes on."""
    text = ""
    for line in launched.stdout:
        text += line
        if "RankError: rank 1 of 2 is stopped: its process was suspended for" in line:
            process_of(launched, 1).resume()
            break
    else:
        pytest.fail(text)
    assert "exitcode  : 1" in launched.stdout.read()
    assert launched.wait() == 1


@pytest.mark.parametrize("launched", ["never comes"], indirect=True)
def test_a_rank_that_never_comes_is_named_and_all_end(launched):
    text = launched.stdout.read()
    assert "RankError: rank 1 of 2 is silent: no answer within 4 s; rank 0 stops after 0 steps" in text
    assert launched.wait() == 1
