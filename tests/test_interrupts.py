"""Ctrl-C at every line of a step: it has happened wholly or not at all, and the next one is as if nothing was.

Real signals come at one line event after another, in every frame of the main thread.
"""

import os
import random
import signal
import threading
import time

import pytest
import step_programs
import torch
import torch.nn.functional as F

import zo_triton as zo
from zo_triton.testing.interrupts import Interrupter

pytestmark = [
    pytest.mark.usefixtures("one_thread", "interruptible"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]
NIGHTLY = os.environ.get("ZO_TRITON_NIGHTLY") == "1"
SAMPLE = 50


@pytest.fixture
def interruptible():
    """A shell's background jobs ignore interrupts, and so would the tests."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    assert signal.signal(signal.SIGINT, before) is signal.default_int_handler


def made(name, folder):
    torch.manual_seed(5)
    folder.mkdir()
    return step_programs.PROGRAMS[name](folder)


def surroundings():
    """What belongs to the process."""
    return torch.is_grad_enabled(), torch.get_num_threads(), torch.is_inference_mode_enabled()


@pytest.mark.parametrize("name", step_programs.PROGRAMS)
def test_a_step_happens_whole_or_not_at_all(name, tmp_path):
    first = made(name, tmp_path / "first")  # loads kernels, whose lines would drown the step's own
    first.step()
    first.close()
    program = made(name, tmp_path / "expected")
    states = [program.state()]
    with Interrupter() as counter:
        program.step()
    states.append(program.state())
    program.step()
    states.append(program.state())
    program.close()
    around, heard = surroundings(), 0
    places = range(1, counter.seen + 1)
    chosen = places if NIGHTLY else random.Random(name).sample(places, min(SAMPLE, counter.seen))
    for at in chosen:
        program = made(name, tmp_path / str(at))
        with Interrupter(at) as interrupter:
            try:
                program.step()
            except KeyboardInterrupt:
                pass
            else:
                assert interrupter.place is None, f"the interrupt at {interrupter.place} was lost"
        heard += interrupter.place is not None
        found = program.state()
        assert found in states[:2], interrupter.place
        assert surroundings() == around, interrupter.place
        program.step()
        assert program.state() == states[states.index(found) + 1], interrupter.place
        program.close()
    assert heard > 0.95 * len(chosen)  # a line or two depend on when memory is collected


def test_a_closure_is_interrupted_at_once():
    """It may be waiting for a simulator, and nothing torch does will ever end that."""
    weight = torch.zeros(3)
    opt = zo.ZOSGD([weight], lr=0.1, directions=4)

    def closure():
        threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start()
        time.sleep(30)
        return weight.sum()

    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        opt.step(closure)
    assert time.monotonic() - began < 20
    assert opt.steps_done == 0


def test_the_program_s_own_handler_is_called():
    heard = []
    signal.signal(signal.SIGINT, lambda number, frame: heard.append(number))
    try:
        weight = torch.zeros(3)
        opt = zo.ZOSGD([weight], lr=0.1, directions=4)

        def closure():
            signal.raise_signal(signal.SIGINT)
            return F.mse_loss(weight, torch.ones(3))

        opt.step(closure)
        assert heard == [signal.SIGINT]
        assert opt.steps_done == 1
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def test_steps_of_other_threads_leave_signals_alone():
    weight, before = torch.zeros(3), signal.getsignal(signal.SIGINT)
    opt = zo.ZOSGD([weight], lr=0.1, directions=4)
    seen = []

    def closure():
        seen.append(signal.getsignal(signal.SIGINT))
        return weight.square().sum()

    thread = threading.Thread(target=opt.step, args=(closure,))
    thread.start()
    thread.join()
    assert opt.steps_done == 1
    assert seen == [before]
