"""Threads that can't be had, end in the middle or never come: each share is done all the same, in the same cuts."""

import _thread
import threading
import time

import numpy as np
import pytest
import torch

from zo_triton.cpu import crew, threads
from zo_triton.cpu.sharing import shared
from zo_triton.cpu.threads import parallel, together

BOUNDS = [(0, 3), (3, 6), (6, 10)]


@shared
def count_kernel(out, start, stop):
    """Adds to each item."""
    for i in range(start, stop):
        out[i] += 3


@pytest.fixture(autouse=True)
def three_threads(monkeypatch):
    """A crew that nobody else has, looked after at each call."""
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    monkeypatch.setattr(crew, "PAUSE_SECONDS", 0.0)
    threads._crew.cache_clear()
    yield
    threads._crew.cache_clear()
    torch.set_num_threads(before)


def shared_out(seconds=0.0):
    """Each share's bounds, and the threads that did them."""
    done, by = [], set()

    def share(start, stop):
        time.sleep(seconds)
        done.append((start, stop))
        by.add(_thread.get_ident())

    parallel(share, 10)
    return sorted(done), by


def counted():
    """What a kernel makes of forty zeros."""
    out = np.zeros(40, np.int64)
    together(count_kernel, (out,), 40, 3)
    return out.tolist()


def all_take_part():
    """Whether three threads do, sooner or later: one may be on its way."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        done, by = shared_out(seconds=0.02)
        assert done == BOUNDS
        if len(by) == 3:
            return True
    return False


@pytest.mark.parametrize("error", [RuntimeError("can't start new thread"), MemoryError()], ids=repr)
def test_threads_that_can_not_be_had(monkeypatch, error):
    def refuse(*_):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(crew, "start_new_thread", refuse)
        assert shared_out() == (BOUNDS, {_thread.get_ident()})
        assert counted() == [3] * 40
    assert all_take_part()


def test_a_refusal_is_not_asked_for_again_at_once(monkeypatch):
    asked = []

    def refuse(*_):
        asked.append(1)
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(crew, "PAUSE_SECONDS", 3600.0)
    monkeypatch.setattr(crew, "start_new_thread", refuse)
    for _ in range(5):
        shared_out()
    assert len(asked) == 1


def test_threads_that_never_come(monkeypatch):
    """As where there is no memory for a thread's first line."""
    monkeypatch.setattr(crew, "start_new_thread", lambda *_: 0)
    assert shared_out() == (BOUNDS, {_thread.get_ident()})
    assert counted() == [3] * 40


def test_threads_that_end_are_replaced(monkeypatch):
    """Two of them run out of memory where they wait for work."""
    fails, serve = iter([True, True]), crew.serve

    def failing(slot, done):
        if next(fails, False):
            raise MemoryError
        serve(slot, done)

    monkeypatch.setattr(crew, "serve", failing)
    assert all_take_part()
    assert next(fails, None) is None


def test_a_thread_that_ends_in_a_share_has_told_its_caller():
    """Nothing is left to wait for, whatever a share raises in another thread."""
    mine = threading.current_thread()

    def share(start, stop):
        time.sleep(0.02)
        if threading.current_thread() is not mine:
            raise SystemExit("in a share")

    def until_another_has_one():
        for _ in range(1000):
            parallel(share, 3)

    with pytest.raises(SystemExit, match="in a share"):
        until_another_has_one()
    assert all_take_part()


def test_a_result_is_that_of_all_threads(monkeypatch):
    """Shares are cut for as many as there should be."""
    generator = torch.Generator().manual_seed(0)
    left, right = torch.randn(96, 257, generator=generator), torch.randn(257, 96, generator=generator)

    def product():
        out = np.zeros((96, 96), np.float32)

        def share(start, stop):
            torch.mm(left[start:stop], right, out=torch.from_numpy(out)[start:stop])

        parallel(share, 96)
        return out

    expected = product()
    threads._crew.cache_clear()
    monkeypatch.setattr(crew, "start_new_thread", lambda *_: 0)
    np.testing.assert_array_equal(product(), expected)
