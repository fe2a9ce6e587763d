import multiprocessing
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from zo_triton._files import cache_folder, replacing


def test_the_new_file_is_there_only_when_it_is_whole(tmp_path):
    path = tmp_path / "weights.bin"
    path.write_bytes(b"old")
    with replacing(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert [entry.name for entry in tmp_path.iterdir()] == ["weights.bin"]


def write_half(path, error):
    with replacing(path) as file:
        file.write(b"half of")
        raise error


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_an_error_leaves_what_was_there(tmp_path, error):
    path = tmp_path / "weights.bin"
    path.write_bytes(b"old")
    with pytest.raises(error):
        write_half(path, error)
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["weights.bin"]


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        write_half(tmp_path / "nowhere" / "file", OSError)


ROOT = Path(__file__).resolve().parents[1]
WRITER = """
import sys, time
from zo_triton._files import replacing
with replacing(sys.argv[1]) as file:
    file.write(b"half")
    file.flush()
    print("writing", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def writer(tmp_path):
    """A process in the midst of writing."""
    command = [sys.executable, "-c", WRITER, tmp_path / "[weights].bin"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout.readline() == "writing\n"
        yield process
        process.kill()


def left_in(folder):
    return [entry for entry in folder.iterdir() if entry.suffix == ".tmp"]


def write(path, content):
    with replacing(path) as file:
        file.write(content)


def test_what_a_killed_process_left_is_removed_by_the_next(writer, tmp_path):
    (tmp_path / ".other.bin.x.tmp").touch()
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    assert len(left_in(tmp_path)) == 2
    write(tmp_path / "[weights].bin", b"new")
    assert left_in(tmp_path) == [tmp_path / ".other.bin.x.tmp"]


def test_what_a_living_process_writes_stays(writer, tmp_path):
    write(tmp_path / "[weights].bin", b"new")
    assert [entry.read_bytes() for entry in left_in(tmp_path)] == [b"half"]


def _write_often(path, number):
    for turn in range(200):
        write(path, f"{number} {turn}".encode())


def test_many_that_write_at_once_lose_nothing(tmp_path):
    context = multiprocessing.get_context("spawn")
    writers = [
        context.Process(target=_write_often, args=(tmp_path / "weights.bin", number)) for number in range(4)
    ]
    for process in writers:
        process.start()
    for process in writers:
        process.join()
    assert [process.exitcode for process in writers] == [0] * 4
    assert (tmp_path / "weights.bin").read_bytes().endswith(b" 199")
    assert left_in(tmp_path) == []


@pytest.fixture
def homeless(monkeypatch):
    """A user without a home, whom the system doesn't know."""
    for name in ("ZO_TRITON_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("os.path.expanduser", lambda path: path)


def test_without_a_home_nothing_can_be_kept(homeless, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OSError, match="Not a directory"):
        cache_folder().mkdir(parents=True)
    assert list(tmp_path.iterdir()) == []


def test_without_a_home_a_named_folder_is_taken(homeless, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "zo_triton"
    monkeypatch.setenv("ZO_TRITON_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"


def test_without_a_home_launches_take_their_own_tiles(homeless):
    from zo_triton.kernels.choices import _read, file_of

    assert _read(file_of("some-gpu")) == {}
