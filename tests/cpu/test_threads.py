"""The engine's threads: each piece of a kernel's work is done once, whoever comes, fails or sleeps."""

import os
import signal
import threading
import time
import weakref
from contextlib import suppress

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from zo_triton._threads import torch_threads
from zo_triton.cpu import threads as engine_threads
from zo_triton.cpu.atomics import atomic_load, atomic_next, give_way, leave_place, relax, take_place
from zo_triton.cpu.sharing import shared
from zo_triton.cpu.threads import one_pool, parallel, together, wider


@shared
def count_kernel(out, step, start, stop):
    """Adds to each item, and notes how many pieces there were."""
    for i in range(start, stop):
        out[i] += step
    atomic_next(out[out.size - 1 :].ctypes.data)


@shared
def meet_kernel(met, start, stop):
    """Each item waits, for seconds at most, until all others have been begun too."""
    for _ in range(start, stop):
        atomic_next(met.ctypes.data)
        for _ in range(3_000_000):
            if atomic_load(met.ctypes.data) >= met[1]:
                met[2] = 1
                break
            give_way()


@shared
def hungry_kernel(out, size, start, stop):
    """Allocates more than there is, in the pieces from the second on."""
    for i in range(start, stop):
        scratch = np.empty(size if i > 0 else 1, np.float32)
        scratch[0] = 1.0
        out[i] = scratch[0]


@shared
def place_kernel(users, places, start, stop):
    """Each piece takes a place, counts itself in and out there, and notes if it was not alone."""
    for _ in range(start, stop):
        place = take_place(places)
        at = users[place:].ctypes.data
        if atomic_next(at) % 2 != 0:
            users[users.size - 1] = 1
        for _ in range(100):
            relax()
        atomic_next(at)
        leave_place(places, place)


@pytest.fixture(params=[1, 2, 3], autouse=True)
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def counted(count, grain, alone=False):
    out = np.zeros(count + 1, np.int64)
    together(count_kernel, (out, 3), count, grain, alone)
    return out


@settings(max_examples=30, deadline=None)
@given(count=st.integers(0, 300), grain=st.integers(1, 400), alone=st.booleans())
def test_each_item_is_done_once(count, grain, alone):
    out = counted(count, grain, alone)
    assert out[:-1].tolist() == [3] * count
    assert out[-1] == -(-count // grain)


def test_the_threads_work_at_the_same_time(threads):
    met = np.array([0, threads, 0], np.int64)
    for _ in range(50):  # one may be on its way from an earlier test
        met[0] = met[2] = 0
        together(meet_kernel, (met,), threads)
        if met[2]:
            break
    assert met.tolist() == [threads, threads, 1]


def test_a_place_is_one_piece_s_alone(threads):
    users, places = np.zeros(threads + 1, np.int64), np.zeros(threads, np.int64)
    together(place_kernel, (users, places), 500)
    assert users[-1] == 0
    assert users.sum() == 1000
    assert not places.any()


def test_called_like_any_other_kernel():
    out = np.zeros(6, np.int64)
    count_kernel(out, 2, 1, 4)
    assert out.tolist() == [0, 2, 2, 2, 0, 1]


def test_a_thread_without_memory_says_so_and_the_next_call_is_well():
    out = np.zeros(8, np.float32)
    with pytest.raises(MemoryError, match="hungry_kernel"):
        together(hungry_kernel, (out, 1 << 60), 8)
    together(hungry_kernel, (out, 1), 8)
    assert out.tolist() == [1.0] * 8


def test_arguments_are_let_go():
    class Array(np.ndarray):
        """One that can be watched."""

    out = np.zeros(65, np.int64).view(Array)
    watch = weakref.ref(out)
    together(count_kernel, (out.view(np.ndarray), 1), 64)
    del out
    assert watch() is None


def test_threads_that_have_gone_to_sleep_are_woken():
    for pause in (0.0, 0.0002, 0.002, 0.02):
        time.sleep(pause)
        assert counted(64, 1)[:-1].tolist() == [3] * 64


def test_functions_and_kernels_take_turns():
    for turn in range(200):
        seen = np.zeros(16, np.int64)

        def share(start, stop, seen=seen):
            seen[start:stop] += 1

        parallel(share, 16)
        assert seen.tolist() == [1] * 16
        assert counted(turn % 40, 1 + turn % 3)[:-1].tolist() == [3] * (turn % 40)


def test_a_kernel_inside_a_share_runs_in_it_alone():
    rows = [None] * 4

    def share(start, stop):
        for i in range(start, stop):
            rows[i] = counted(20, 3)[:-1].tolist()

    parallel(share, 4)
    assert rows == [[3] * 20] * 4


@pytest.fixture
def interruptible():
    """A shell's background jobs ignore interrupts, and so would the tests."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_after_an_interrupt_nobody_is_at_work_and_no_answer_is_stale(threads):
    """Real signals, at whatever line they find the hand-over."""
    seen, at_work = np.zeros(3, np.int64), [0] * 3

    def share(start, stop):
        for i in range(start, stop):
            at_work[i] = 1
            until = time.perf_counter() + 2e-4 * i  # the caller is through first
            while time.perf_counter() < until:
                pass
            seen[i] += 1
            at_work[i] = 0

    main, interrupts = threading.main_thread().ident, 0
    for turn in range(300):
        alarm = threading.Timer(1e-5 * (turn % 60), signal.pthread_kill, (main, signal.SIGINT))
        try:
            alarm.start()
            parallel(share, threads)
            alarm.join()
        except KeyboardInterrupt:
            interrupts += 1
        with suppress(KeyboardInterrupt):
            alarm.join()
        assert at_work[1:] == [0] * 2
        before = seen[:threads].copy()
        parallel(share, threads)
        assert (seen[:threads] - before).tolist() == [1] * threads
    assert interrupts > 0


def test_an_error_of_the_caller_s_own_share_waits_for_those_that_were_begun(threads):
    begun, over = np.zeros(threads, np.int64), np.zeros(threads, np.int64)

    def share(start, stop):
        for i in range(start, stop):
            if i == 0:
                until = time.monotonic() + 60
                while begun.sum() < threads - 1 and time.monotonic() < until:
                    time.sleep(0.001)
                raise ValueError("mine")
            begun[i] = 1
            time.sleep(0.02)
            over[i] = 1

    with pytest.raises(ValueError, match="mine"):
        parallel(share, threads)
    assert (begun == over).all()
    assert begun.sum() == threads - 1


def test_callers_in_several_threads():
    wrong = []

    def call():
        wrong.extend(1 for _ in range(200) if counted(50, 4)[:-1].tolist() != [3] * 50)

    callers = [threading.Thread(target=call) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert wrong == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:.*fork.*")
def test_a_forked_child_has_threads_of_its_own():
    counted(10, 1)
    child = os.fork()
    if child == 0:
        os._exit(0 if counted(40, 1)[:-1].tolist() == [3] * 40 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_torch_s_own_functions_run_on_the_threads_that_are_kept_out(threads):
    assert wider() is None
    with one_pool():
        run = wider()
        assert torch.get_num_threads() == 1
        assert (run is None) == (threads == 1)
        if run is not None:
            assert run(torch.get_num_threads) == threads
            assert run(_threads_inside) == 1
            assert torch.get_num_threads() == 1
        with suppress(ZeroDivisionError):
            (run or (lambda function: function()))(lambda: 1 // 0)
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == threads


def _threads_inside():
    """What a share of the engine's sees that is begun inside such a function."""
    found = []
    parallel(lambda start, stop: found.append(torch.get_num_threads()), 1 << 10)
    return max(found)


def test_torch_s_threads_are_at_rest_when_the_engine_s_begin(threads, monkeypatch):
    paused = []
    monkeypatch.setattr(engine_threads, "_pause", paused.append)
    monkeypatch.setattr(engine_threads, "_spinning", False)
    with one_pool():
        run = wider()
        counted(100, 1)
        assert paused == []
        if run is not None:
            run(torch.ones, 10)
            assert paused == []
            counted(100, 1)
            assert paused == [engine_threads._SOFTLY]
            parallel(lambda start, stop: None, 100)
            assert len(paused) == 1
            run(torch.ones, 10)
            parallel(lambda start, stop: None, 100)
            assert len(paused) == 2


def test_threads_that_were_put_to_rest_are_had_again(threads):
    x = torch.randn(600, 600, generator=torch.Generator().manual_seed(0))
    with one_pool():
        run = wider() or (lambda function, *args: function(*args))
        for _ in range(3):
            torch.testing.assert_close(run(torch.mm, x, x), x @ x)
            assert (counted(100, 1)[:-1] == 3).all()


def test_without_a_way_to_put_them_to_rest_they_are_kept_out(monkeypatch):
    monkeypatch.setattr(engine_threads, "_pause", None)
    with one_pool():
        assert wider() is None


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_keeps_torch_to_one_thread():
    x = torch.randn(600, 600, generator=torch.Generator().manual_seed(0))
    with one_pool():
        run = wider() or (lambda function, *args: function(*args))
        run(torch.mm, x, x)
        pid = os.fork()
        if pid == 0:
            alone = wider() is None and run(torch.get_num_threads) == 1  # what was had before the fork, too
            os._exit(0 if alone and counted(100, 1)[0] == 3 else 1)
        assert os.waitpid(pid, 0)[1] == 0


def test_no_threads_are_asked_for_once_another_thread_s_end_has_taken_their_number_along(monkeypatch):
    monkeypatch.setattr(engine_threads, "_pause", lambda kind: 0)
    with torch_threads(2), one_pool():
        run = wider()
        monkeypatch.setattr(engine_threads, "_held", 0)
        assert run(torch.get_num_threads) == 1


def test_shares_are_in_the_inference_mode_of_the_caller(threads):
    caller, begun = threading.get_ident(), threading.Event()

    def count(start, stop):
        if threading.get_ident() != caller:
            begun.set()
        elif threads > 1:  # so that it does not do all of them itself
            begun.wait(20)
        out[start:stop] += 1

    with torch.inference_mode():
        out = torch.zeros(threads)
        parallel(count, threads)
    assert out.tolist() == [1.0] * threads
