"""Starts a program on several ranks of this machine, and never waits for it longer than told."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import psutil

PROGRAM = Path(__file__).with_name("rank_program.py")
SECONDS = 120.0


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def python_path():
    """Finds this checkout first."""
    return os.pathsep.join(filter(None, (str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH"))))


def environment(size, port, rank):
    return {
        **os.environ,
        "PYTHONPATH": python_path(),
        "OMP_NUM_THREADS": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "RANK": str(rank),
        "WORLD_SIZE": str(size),
        "GLOO_SOCKET_IFNAME": "lo",
    }


def start(size, *arguments, program=(str(PROGRAM),)):
    """The ranks' processes of a program, without its number of ranks and its port being known to it."""
    port = free_port()
    return [
        subprocess.Popen(
            [sys.executable, *program, *map(str, arguments)],
            env=environment(size, port, rank),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(size)
    ]


def torchrun(size, *arguments):
    """The launcher of a program on so many ranks; all that it and they write is in its ``stdout``."""
    return subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(size)]
        + [str(argument) for argument in arguments],
        env={**os.environ, "PYTHONPATH": python_path(), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def process_of(launcher, rank):
    """The process of one rank."""
    (found,) = (
        child for child in psutil.Process(launcher.pid).children() if child.environ().get("RANK") == str(rank)
    )
    return found


def finish(processes, seconds=SECONDS):
    """Exit codes and what each wrote to stderr.

    Processes that are still there when the time is over are ended; waits for all but the last, which is ended then.
    """
    errors = []
    try:
        errors = [process.communicate(timeout=seconds)[1] for process in processes[:-1]]
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
        errors.append(processes[-1].communicate()[1])
    return [process.returncode for process in processes], errors
