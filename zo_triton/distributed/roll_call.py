"""Who is still there: after an exchange has failed, every rank that lives answers, and the others are named.

A failed exchange names the neighbour whose connection broke, which may only have left because of a third one.
So each rank writes its name into the process group's store and looks for the others'. A process on the same
machine can be asked for directly, which makes it quick; one elsewhere is given up after a while.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from itertools import count
from pathlib import Path
from typing import NamedTuple

from torch.distributed.distributed_c10d import PrefixStore, Store

from zo_triton.distributed.errors import RankError, spell
from zo_triton.distributed.patience import within

LOOK_SECONDS = 0.02
"""Between two looks at the store."""

FAREWELL_SECONDS = 3.0
"""How long a rank stays for the others' sake: the store may live in its process."""

TELL_SECONDS = 10.0
"""After which a rank that waits says for whom."""


_number = count()


class Absence(NamedTuple):
    """Who has not answered.

    Attributes:
        ranks: Their numbers.
        why: "ended" or "stopped", if their processes are known to be; these alone, if some are, as others may be
            waiting for a rank that waits here. Else "silent".
        seconds: How long they were waited for.
    """

    ranks: tuple[int, ...]
    why: str
    seconds: float


class RollCall:
    """One rank's place in the list.

    Args:
        store: The process group's.
        rank: Whose place.
        size: How many ranks there are.
        silence: Seconds after which a store that does not answer, or a rank that is stopped, is given up.
    """

    def __init__(self, store: Store, rank: int, size: int, silence: float) -> None:
        # Every rank makes its lists in the same order.
        self._store = PrefixStore(f"zo_triton/roll_call/{next(_number)}", store)
        self._processes = PrefixStore("zo_triton/processes", store)
        self._rank, self._size, self._silence = rank, size, silence
        self._machine = _machine()
        self._is_announced = self._is_lost = False

    def wait(self, event: str, patience: float) -> Absence | None:
        """Answers, and waits for the others to do so.

        Args:
            event: What is waited for; each takes place once.
            patience: Seconds after which who has not answered is given up.

        Returns:
            Who is missing; None if nobody is.
        """
        began, told, stopped_since = time.monotonic(), False, float("inf")
        try:
            within(self._silence, self._answer, event)
            while True:
                found = within(self._silence, self._look, event)
                now = time.monotonic()
                if found is None or found.why == "ended":
                    return found
                stopped_since = min(stopped_since, now) if found.why == "stopped" else float("inf")
                if now - began > patience:
                    return found._replace(seconds=patience)
                if now - stopped_since > self._silence:
                    return found._replace(seconds=self._silence)
                if not told and now - began > TELL_SECONDS:
                    told = True
                    _tell(f"rank {self._rank} waits for {spell(found.ranks)}, {patience:g} s at most …")
                time.sleep(LOOK_SECONDS)
        # Without torchrun the store lives in rank 0, and stops or ends with it.
        except TimeoutError:
            self._is_lost = True
            return Absence((0,), "silent", self._silence)
        except RuntimeError:
            return Absence((0,), "ended", 0.0)

    def leave(self, event: str) -> None:
        """Waits a moment for all that have answered to have seen each other's answers."""
        deadline = time.monotonic() + FAREWELL_SECONDS
        if self._is_lost:
            return
        try:
            while not within(FAREWELL_SECONDS, self._have_seen, event) and time.monotonic() < deadline:
                time.sleep(LOOK_SECONDS)
        except (RuntimeError, TimeoutError):
            return

    def error(self, absence: Absence, done: int, hint: str = "") -> RankError:
        """The error that names who is missing.

        Args:
            absence: What :meth:`wait` returned.
            done: Steps of this run that are done.
            hint: What else may help against silence.
        """
        what = {
            "ended": "gone: its process has ended",
            "stopped": f"stopped: its process was suspended for {absence.seconds:.3g} s (kill -CONT lets it go on)",
            "silent": f"silent: no answer within {absence.seconds:.3g} s{hint}",
        }[absence.why]
        verb = "is" if len(absence.ranks) == 1 else "are"
        return RankError(
            f"{spell(absence.ranks)} of {self._size} {verb} {what}; rank {self._rank} stops after {done} steps of "
            "this run. Start all ranks again from the last checkpoint.",
            absence.ranks,
        )

    def _answer(self, event: str) -> None:
        if not self._is_announced:
            self._processes.set(str(self._rank), f"{self._machine} {os.getpid()}")
            self._is_announced = True
        self._store.set(f"{event}/{self._rank}", "here")

    def _look(self, event: str) -> Absence | None:
        missing = self._without(event)
        if not missing:
            return None
        states = {rank: self._state(rank) for rank in missing}
        ended = tuple(rank for rank, state in states.items() if state in ENDED)
        stopped = tuple(rank for rank, state in states.items() if state == STOPPED)
        if ended:
            return Absence(ended, "ended", 0.0)
        return Absence(stopped, "stopped", 0.0) if stopped else Absence(tuple(missing), "silent", 0.0)

    def _have_seen(self, event: str) -> bool:
        """Whether all that have answered know who has; says that this rank does."""
        self._store.set(f"{event}/{self._rank}/seen", "yes")
        missing = self._without(event)
        return self._store.check(
            [f"{event}/{rank}/seen" for rank in range(self._size) if rank not in missing]
        )

    def _without(self, event: str) -> list[int]:
        return [rank for rank in range(self._size) if not self._store.check([f"{event}/{rank}"])]

    def _state(self, rank: int) -> str:
        """What the rank's process is at, if it runs or ran here; elsewhere nobody can tell."""
        if not self._processes.check([str(rank)]):
            return UNKNOWN
        machine, process = self._processes.get(str(rank)).decode().rsplit(" ", 1)
        return state_of(int(process)) if machine == self._machine else UNKNOWN


UNKNOWN, STOPPED = "", "T"
ENDED = ("Z", "X")
"""Letters of a process's state as Linux gives them; one that has ended may not have been waited for yet."""


def state_of(process: int) -> str:
    """The letter that says what a process of this machine is at; that of none that runs is "X"."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return "X"
    except PermissionError:
        return UNKNOWN
    try:
        # The state follows the command's name, which is in brackets and may hold any letter.
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return UNKNOWN


def _tell(text: str) -> None:
    sys.stderr.write(f"zo_triton: {text}\n")
    sys.stderr.flush()


def _machine() -> str:
    """Two processes with the same answer see each other's numbers: one kernel, one space of process numbers."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return f"{socket.gethostname()}/{os.name}"
