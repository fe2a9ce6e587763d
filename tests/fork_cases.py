"""A process forked at any moment: the child steps as its parent does, hears Ctrl-C, and waits for nobody.

It has none of the parent's threads, and of what they held, counted or were in the middle of it has copies. Run by
``test_forks.py`` in a process of its own.
"""

import os
import signal
import threading
import time

import pytest
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader

import zo_triton as zo
from zo_triton.cpu.threads import thread_count

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system"),
    pytest.mark.filterwarnings("ignore:.*fork.*"),
]
SECONDS = 120.0
INPUTS, LABELS = torch.randn(96, 64, generator=torch.Generator().manual_seed(1)), torch.arange(96) % 10


@pytest.fixture(params=[1, 2], autouse=True)
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def run(during=lambda: None):
    """The weights after two steps, the second of which does something else in its closure."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.Tanh(), torch.nn.Linear(128, 10))
    opt = zo.ZOSGD(model.parameters(), lr=0.1, directions=8, momentum=0.9)
    for what in (lambda: None, during):

        def closure(what=what):
            what()
            return F.cross_entropy(model(INPUTS), LABELS)

        opt.step(closure)
    return [param.detach().clone() for param in model.parameters()]


def same(found, expected):
    return all(map(torch.equal, found, expected))


def ended(child):
    """A child's exit code; one that hangs is killed."""
    deadline = time.monotonic() + SECONDS
    while True:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
        time.sleep(0.005)


def forked(check):
    """The exit code of a child that checks something: 0 if it holds."""
    child = os.fork()
    if child == 0:
        code = 2
        try:
            code = 0 if check() else 1
        finally:
            os._exit(code)
    return ended(child)


def from_another_thread(check):
    codes = []
    thread = threading.Thread(target=lambda: codes.append(forked(check)))
    thread.start()
    thread.join()
    return codes[0]


def test_after_a_step():
    expected = run()
    assert forked(lambda: same(run(), expected)) == 0


def test_in_the_middle_of_a_step_by_another_thread(threads):
    expected, codes = run(), []
    again = run(lambda: codes.append(from_another_thread(lambda: same(run(), expected))))
    assert codes == [0]
    assert same(again, expected)


def test_the_child_of_another_thread_has_its_own_number_of_threads(threads):
    codes = []
    run(lambda: codes.append(from_another_thread(lambda: thread_count() == torch.get_num_threads())))
    assert codes == [0]


def test_by_the_closure_and_both_go_on():
    expected, children = run(), []
    try:
        again = run(lambda: children.append(os.fork()))
    finally:
        if children == [0]:
            os._exit(0 if same(again, expected) and same(run(), expected) else 1)
    assert ended(children[0]) == 0
    assert same(again, expected)


def interrupted():
    """Whether Ctrl-C is heard."""
    try:
        signal.raise_signal(signal.SIGINT)
        time.sleep(1)
    except KeyboardInterrupt:
        return True
    return False


def test_a_child_hears_interrupts():
    """Another thread forks while a step holds them back, as it does all the time but in the closure."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    model, forks = torch.nn.Linear(64, 10), []

    def scale(slopes, gram):
        forks.append(from_another_thread(interrupted))
        return slopes / len(slopes)

    try:
        opt = zo.ZOSGD(model.parameters(), lr=0.1, directions=8, aggregator=scale)
        opt.step(lambda: F.cross_entropy(model(INPUTS), LABELS))
    finally:
        signal.signal(signal.SIGINT, before)
    assert forks == [0]


def test_while_another_thread_compiles():
    from numba.core.compiler_lock import global_compiler_lock

    expected, begun, over = run(), threading.Event(), threading.Event()

    def compile_for_long():
        with global_compiler_lock:
            begun.set()
            time.sleep(0.3)
            over.set()

    def compiles():
        with global_compiler_lock:
            return over.is_set() and same(run(), expected)

    thread = threading.Thread(target=compile_for_long)
    thread.start()
    begun.wait()
    assert forked(compiles) == 0
    thread.join()


class Perturbed(torch.utils.data.Dataset):
    """Items are made by the library's own kernels."""

    def __len__(self):
        return 4

    def __getitem__(self, item):
        return zo.sample(zo.Directions(0, item, 3), 0, (5, 40))


def test_workers_of_a_data_loader():
    run()
    loader = DataLoader(
        Perturbed(), batch_size=2, num_workers=2, multiprocessing_context="fork", timeout=SECONDS
    )
    found = []

    def load():
        found.extend(torch.cat(list(loader)))

    run(load)
    expected = [Perturbed()[item] for item in range(4)]
    assert same(found, expected)
