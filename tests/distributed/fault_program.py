"""``python fault_program.py``: groups of ranks side by side, of each of which one stops or ends at some moment.

All are forked from here, for a rank's imports take longer than what is tested; those of one moment at a time, for
on a busy machine a rank that waits long for its turn is taken for one that is gone. Prints, by case and rank,
whom a rank named, what it said and how many seconds after the fault.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))
from rank_launch import environment, free_port

import zo_triton as zo
from zo_triton.distributed import joining

PATIENCE, TIMEOUT, SECONDS, SIZE = 12.0, 4.0, 100.0, 3
MOMENTS = ("start", "joined", "made", "stepping")
CASES = [
    f"{moment} {fault} {odd}" for moment in MOMENTS for fault in ("stops", "ends") for odd in (0, SIZE - 1)
]


class Rank:
    """One rank's way through a case, and the clock that starts at the fault."""

    def __init__(self, case: str, rank: int) -> None:
        self.moment, self.fault, odd = case.split()
        self.is_odd = rank == int(odd)
        self.began = time.monotonic()

    def reach(self, moment: str) -> None:
        """The odd one gets no further than its moment."""
        if moment == self.moment:
            self.began = time.monotonic()
            if self.is_odd:
                os.kill(os.getpid(), signal.SIGKILL if self.fault == "ends" else signal.SIGSTOP)

    def run(self) -> None:
        """Joins the others and trains."""
        self.reach("start")
        with joining.process_group(PATIENCE):
            self.reach("joined")
            ranks = zo.Ranks(shards=SIZE, timeout=TIMEOUT)
            self.reach("made")
            train(ranks, lambda: self.reach("stepping"))


def train(ranks: zo.Ranks | None, third=lambda: None, steps: int = 200) -> None:
    """Some steps, before the third of which something is done."""
    weight = torch.zeros(5)
    opt = zo.ZOSGD([weight], lr=0.05, directions=6, ranks=ranks)
    for step in range(steps):
        if step == 2:
            third()
        opt.step(lambda: (weight - 1).square().sum())


def begin(case: str, rank: int, port: int, writer: int) -> int:
    """Forks a rank, which writes a line if it names somebody."""
    process = os.fork()
    if process == 0:
        os.environ.update(environment(SIZE, port, rank))
        joining.SILENCE_SECONDS = TIMEOUT
        mine, told = Rank(case, rank), ["nothing happened"]
        try:
            mine.run()
        except zo.RankError as error:
            told = [list(error.ranks), str(error), time.monotonic() - mine.began]
        except BaseException as error:
            told = [repr(error)]
        os.write(writer, (json.dumps([case, rank, *told]) + "\n").encode())
        os._exit(0)
    return process


def main() -> None:
    torch.set_num_threads(1)
    train(None, steps=2)  # kernels are there
    reader, writer = os.pipe()
    for moment in MOMENTS:
        run_together([case for case in CASES if case.startswith(moment)], writer)
    os.close(writer)
    with os.fdopen(reader) as lines:
        sys.stdout.write("".join(lines))


def run_together(cases: list[str], writer: int) -> None:
    """Waits until all have ended that may, and ends the others."""
    processes = []
    for case in cases:
        port = free_port()
        processes += [(case, rank, begin(case, rank, port, writer)) for rank in range(SIZE)]
    deadline = time.monotonic() + SECONDS
    waiting = {process for case, rank, process in processes if rank != int(case.split()[2])}
    while waiting and time.monotonic() < deadline:
        time.sleep(0.05)
        waiting -= {process for process in waiting if os.waitpid(process, os.WNOHANG)[0]}
    for _, _, process in processes:
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


if __name__ == "__main__":
    main()
