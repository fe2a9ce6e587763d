import os
import subprocess
import sys
import time
from types import SimpleNamespace

import psutil
import pytest

from benchmarks.measure import quiet


def looks(monkeypatch, shares):
    """Each look finds the next share of all cores kept by others."""
    found = iter(shares)
    monkeypatch.setattr("psutil.cpu_percent", lambda seconds: 100 * next(found))


def test_only_others_count():
    loop = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        assert quiet.cores_of_others(1.0) > 0.3
    finally:
        loop.kill()
        loop.wait()


def spin(seconds):
    until = time.process_time() + seconds
    while time.process_time() < until:
        pass


@pytest.fixture
def machine(monkeypatch):
    """A machine whose other programs have taken so many seconds; this one's time is the real one."""
    me, taken = psutil.Process(), {"others": 0.0}

    def cpu_times():
        mine = sum(me.cpu_times()[:4])
        return SimpleNamespace(_asdict=lambda: {"user": mine + taken["others"], "idle": 1e9, "guest": 5.0})

    monkeypatch.setattr("psutil.cpu_times", cpu_times)
    return taken


def test_what_others_take_meanwhile_is_counted_and_what_this_one_takes_is_not(machine, monkeypatch):
    clock = iter([100.0, 110.0])
    monkeypatch.setattr(quiet, "monotonic", lambda: next(clock))
    neighbours = quiet.Neighbours()
    spin(0.3)
    subprocess.run([sys.executable, "-c", "sum(range(10**7))"], check=True)
    machine["others"] = 15.0
    assert neighbours.cores() == pytest.approx(1.5, abs=0.02)


def test_it_waits_until_they_have_ended(monkeypatch):
    looks(monkeypatch, [0.9, 0.8, 0.01])
    said = []
    assert quiet.wait_for_quiet(said.append) == round(0.01 * os.cpu_count(), 2)
    (line,) = said
    assert f"keep {0.9 * os.cpu_count():.1f} cores busy" in line


def test_it_waits_no_longer_than_its_patience(monkeypatch):
    looks(monkeypatch, [0.9])
    assert quiet.wait_for_quiet(lambda message: None, patience=0.0) == round(0.9 * os.cpu_count(), 2)


def test_without_psutil_nobody_knows(monkeypatch):
    monkeypatch.setitem(sys.modules, "psutil", None)
    assert quiet.cores_of_others(0.1) is None
    assert quiet.wait_for_quiet(pytest.fail) is None
    assert quiet.Neighbours().cores() is None
