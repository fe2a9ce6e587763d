"""Full disks, folders nobody may write to, and several processes at once: a reader finds one whole report."""

import ctypes
import errno
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.report import folders, publish

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="meant for Linux's file systems")


def contents(folder):
    return {entry.name: entry.read_bytes() for entry in folder.iterdir()}


@pytest.fixture
def published(short_record, short_report, tmp_path):
    target = tmp_path / "out"
    shutil.copytree(short_report, target)
    before = contents(target)
    short_record["environment"]["device"] = "another"
    yield short_record, target
    assert contents(target) == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]


def full(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    ("module", "name"),
    [(os, "fsync"), (os, "replace"), (os, "mkdir"), (Path, "write_text"), (os, "chmod")],
)
def test_a_disk_that_is_full_at_any_call_leaves_the_old_report(published, monkeypatch, module, name):
    record, target = published
    if name == "write_text":
        from benchmarks.report import records

        module, name = records, "write_text"
    with monkeypatch.context() as patch:
        patch.setattr(module, name, full)
        with pytest.raises(OSError, match="No space left"):
            publish(record, target)


def test_a_rename_that_fails_leaves_the_old_report(published, monkeypatch):
    record, target = published
    with monkeypatch.context() as patch:
        patch.setattr(sys.modules["benchmarks.report.publish"], "exchange", full)
        with pytest.raises(OSError, match="No space left"):
            publish(record, target)


PUBLISH = """
import json, resource, signal, sys
from benchmarks.report import publish
record, folder, most = json.loads(sys.argv[1]), sys.argv[2], int(sys.argv[3])
if most:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
try:
    publish(record, folder)
except OSError as error:
    print("refused", error.errno)
"""


def publish_elsewhere(record, folder, most=0):
    result = subprocess.run(
        [sys.executable, "-c", PUBLISH, json.dumps(record), str(folder), str(most)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_a_limit_on_the_size_of_files(published):
    """The record fits into 4000 bytes, the first figure does not."""
    record, target = published
    assert publish_elsewhere(record, target, 4000) == f"refused {errno.EFBIG}"


@pytest.fixture
def tiny_disk(tmp_path):
    """A file system of 1 MiB of its own, where this process may mount one."""
    place, libc = tmp_path / "disk", ctypes.CDLL(None, use_errno=True)
    place.mkdir()
    if libc.mount(b"none", os.fsencode(place), b"tmpfs", 0, b"size=1m") != 0:
        pytest.skip("may not mount a file system")
    yield place
    assert libc.umount2(os.fsencode(place), 2) == 0


def test_a_disk_that_fills_up(short_record, tiny_disk):
    target = tiny_disk / "out"
    publish(short_record, target)
    before = contents(target)
    (tiny_disk / "filler").write_bytes(bytes(2**20 - sum(map(len, before.values())) - 40_000))
    with pytest.raises(OSError, match="No space left"):
        publish(short_record, target)
    assert contents(target) == before
    assert sorted(entry.name for entry in tiny_disk.iterdir()) == ["filler", "out"]
    (tiny_disk / "filler").unlink()
    short_record["tiny"] = True
    assert "A tiny run" in publish(short_record, target).read_text()


def test_a_folder_that_is_read_only(short_record, tiny_disk):
    target = tiny_disk / "out"
    publish(short_record, target)
    before = contents(target)
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.mount(b"none", os.fsencode(tiny_disk), b"tmpfs", 32 | 1, b"") == 0  # MS_REMOUNT | MS_RDONLY
    with pytest.raises(OSError, match="Read-only file system"):
        publish(short_record, target)
    assert contents(target) == before


def test_what_a_killed_process_left_is_swept_away(short_record, tmp_path):
    target = tmp_path / "out"
    (tmp_path / ".out.dead.tmp").mkdir()
    (tmp_path / ".out.dead.tmp" / "report.md").write_text("half")
    (tmp_path / ".outer.tmp").mkdir()
    publish(short_record, target)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [".outer.tmp", "out"]
    # Killed between the two renames of a file system that can't exchange: the old report comes back.
    target.rename(tmp_path / ".out.dead.tmp.old")
    short_record["sections"]["accuracy"] = "damaged"
    short_record["environment"]["device"] = "another"
    with pytest.raises(ValueError, match="lacks accuracy"):
        publish(short_record, target)
    short_record["sections"].pop("accuracy")
    publish(short_record, target)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [".outer.tmp", "out"]


def _publish_often(record, folder, name, times):
    """In a process of its own: reports whose device and text say who wrote them."""
    from benchmarks.report import figures, publish

    figures.draw_all = lambda record, folder: []
    for number in range(times):
        record["environment"]["device"] = f"{name} {number}"
        publish(record, folder)


def _snapshot(target):
    """The folder's files, if nobody replaced it while they were read; None otherwise."""
    before = target.stat()
    try:
        found = {name: (target / name).read_text() for name in os.listdir(target)}
    except FileNotFoundError as error:
        # The folder itself must be there at any time.
        if not target.is_dir():
            raise AssertionError(f"{target} was missing for a moment") from error
        return None
    after = target.stat()
    same = (before.st_ino, before.st_ctime_ns) == (after.st_ino, after.st_ctime_ns)
    return found if same else None


def test_two_processes_publish_while_a_third_reads(short_record, tmp_path):
    short_record["sections"].pop("step_split")
    target, context = tmp_path / "out", multiprocessing.get_context("spawn")
    publish(short_record, target)
    for entry in target.glob("*.svg"):
        entry.unlink()
    writers = [
        context.Process(target=_publish_often, args=(short_record, target, name, 40))
        for name in ("one", "two")
    ]
    for writer in writers:
        writer.start()
    whole, names = 0, set()
    while any(writer.is_alive() for writer in writers):
        (target / "report.md").read_text()  # never missing, whenever it is opened
        found = _snapshot(target)
        if found is not None and len(found) == 3:
            device = json.loads(found["results.json"])["environment"]["device"]
            assert device in found["report.md"]
            assert device in found["report.html"]
            names.add(device.split()[0])
            whole += 1
        time.sleep(0.001)
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert {"one", "two"} <= names
    assert whole > 10
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["out"]


def test_publishers_take_turns(tmp_path):
    """While one holds the folder, another waits; it is not kept by a process that has died."""
    code = "import sys, pathlib; from benchmarks.report.folders import locked\n" + (
        "with locked(pathlib.Path(sys.argv[1])) as held: print(held, flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    with (
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as first,
    ):
        assert first.stdout.readline() == "True\n"
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as second:
            with pytest.raises(subprocess.TimeoutExpired):
                second.wait(0.5)
            first.kill()
            assert second.stdout.readline() == "True\n"
            second.communicate("")


def test_exchange_says_where_it_can_not(tmp_path, monkeypatch):
    (tmp_path / "a").write_text("a")
    (tmp_path / "b").write_text("b")
    assert folders.exchange(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "a").read_text() == "b"
    with pytest.raises(FileNotFoundError, match="nothing"):
        folders.exchange(tmp_path / "a", tmp_path / "nothing")
    monkeypatch.setattr(sys, "platform", "another")
    assert not folders.exchange(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "a").read_text() == "b"
