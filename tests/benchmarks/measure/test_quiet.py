import os
import subprocess
import sys

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
