"""Processes beside each other that can neither hang nor take this one with them."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from time import monotonic, sleep

BETWEEN_LOOKS = 0.02
"""Seconds."""

Again = Callable[[int, int], bool]


def run_all(
    commands: Sequence[Sequence[str]],
    seconds: float,
    variables: dict[str, str],
    logs: Sequence[Path],
    again: Again = lambda number, status: False,
) -> list[int | None]:
    """Runs commands to their end.

    Args:
        commands: Each a process of its own.
        seconds: After which those that still run are ended.
        variables: Their environment.
        logs: Where each one's words go, those of its next start behind the others.
        again: Asked with a command's number and its status when it has ended: whether to start it once more.

    Returns:
        Each one's last status, negative for a signal; None if its time was up first.
    """
    deadline = monotonic() + seconds
    statuses: list[int | None] = [None] * len(commands)
    running = {number: _start(command, variables, logs[number]) for number, command in enumerate(commands)}
    try:
        while running and monotonic() < deadline:
            for number, process in list(running.items()):
                status = process.poll()
                if status is None:
                    continue
                _end(running.pop(number))
                if again(number, status):
                    running[number] = _start(commands[number], variables, logs[number])
                else:
                    statuses[number] = status
            sleep(BETWEEN_LOOKS)
    finally:
        for process in running.values():
            _end(process)
    return statuses


def _start(command: Sequence[str], variables: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
    # A session of its own: compilers that it starts end with it.
    with log.open("ab") as words:
        return subprocess.Popen(
            command, env=variables, stdin=subprocess.DEVNULL, stdout=words, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip


def _end(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
