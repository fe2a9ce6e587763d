"""Who is still there: after an exchange has failed, every rank that lives answers, and the others are named.

A failed exchange names the neighbour whose connection broke, which may only have left because of a third one.
So each rank writes its name into the process group's store and looks for the others'. A process on the same
machine can be asked for directly, which makes it quick; one elsewhere is given up after a while.
"""

from __future__ import annotations

import os
import socket
import time
from itertools import count
from pathlib import Path

from torch.distributed.distributed_c10d import PrefixStore, Store

LOOK_SECONDS = 0.02
"""Between two looks at the store."""

FAREWELL_SECONDS = 3.0
"""How long a rank stays for the others' sake: the store may live in its process."""


_number = count()


class RollCall:
    """One rank's place in the list.

    Args:
        store: The process group's.
        rank: Whose place.
        size: How many ranks there are.
    """

    def __init__(self, store: Store, rank: int, size: int) -> None:
        # Every rank makes its lists in the same order.
        self._store = PrefixStore(f"zo_triton/roll_call/{next(_number)}", store)
        self._rank, self._size = rank, size
        self._machine = _machine()
        self._store.set(f"process/{rank}", f"{self._machine} {os.getpid()}")

    def wait(self, event: str, patience: float) -> tuple[tuple[int, ...], bool]:
        """Answers, and waits for the others to do so.

        Args:
            event: What is waited for; each takes place once.
            patience: Seconds after which who has not answered is given up.

        Returns:
            Who is missing, and whether their processes are known to have ended; if some have, these alone. Others
            may be waiting for a rank that waits here.
        """
        deadline = time.monotonic() + patience
        try:
            self._store.set(f"{event}/{self._rank}", "here")
            while missing := self._without(event):
                gone = [rank for rank in missing if self._has_ended(rank)]
                if gone:
                    return tuple(gone), True
                if time.monotonic() > deadline:
                    return tuple(missing), False
                time.sleep(LOOK_SECONDS)
        except RuntimeError:
            # Without torchrun the store lives in rank 0 and ends with it.
            return (0,), True
        return (), False

    def leave(self, event: str) -> None:
        """Waits a moment for all that have answered to have seen each other's answers."""
        deadline = time.monotonic() + FAREWELL_SECONDS
        try:
            self._store.set(f"{event}/{self._rank}/seen", "yes")
            missing = self._without(event)
            here = [f"{event}/{rank}/seen" for rank in range(self._size) if rank not in missing]
            while not self._store.check(here) and time.monotonic() < deadline:
                time.sleep(LOOK_SECONDS)
        except RuntimeError:
            return

    def _without(self, event: str) -> list[int]:
        return [rank for rank in range(self._size) if not self._store.check([f"{event}/{rank}"])]

    def _has_ended(self, rank: int) -> bool:
        """Whether the rank's process ran here and runs no more; elsewhere nobody can tell."""
        if not self._store.check([f"process/{rank}"]):
            return False
        machine, process = self._store.get(f"process/{rank}").decode().rsplit(" ", 1)
        return machine == self._machine and not is_running(int(process))


def is_running(process: int) -> bool:
    """Whether a process of this machine runs; one that has ended but was not yet waited for does not."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    try:
        # The state follows the command's name, which is in brackets and may hold any letter.
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return True


def _machine() -> str:
    """Two processes with the same answer see each other's numbers: one kernel, one space of process numbers."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return f"{socket.gethostname()}/{os.name}"
