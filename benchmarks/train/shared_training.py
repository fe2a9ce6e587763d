"""One training run on the many processes that torchrun starts: rank 0 tells and writes, the others follow."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch.distributed as dist

import zo_triton as zo
from benchmarks.train.training import (
    TORCHRUN,
    Progress,
    Run,
    Settings,
    choose,
    follow,
    resume,
    saved_settings,
    train,
)
from zo_triton.distributed.joining import FIRST_SECONDS, NEEDED, SILENCE_SECONDS, meet, process_group
from zo_triton.distributed.roll_call import RollCall

SHARDS = 4
"""Into how many runs the directions are cut by default."""

TERMINATED = 128 + signal.SIGTERM


@contextmanager
def shared_run(
    asked: Mapping[str, Any],
    out: str | None = None,
    resume_from: str | None = None,
    intact_prefix: bool = False,
) -> Iterator[tuple[Run, bool]]:
    """Joins the other processes and prepares this one's part.

    Args:
        asked: Settings by the names of :func:`benchmarks.train.training.choose`.
        out: The folder that gets the files of a new run; rank 0 writes them.
        resume_from: Or the folder of a run that goes on; only rank 0 reads it.
        intact_prefix: As in :func:`benchmarks.train.training.resume`.

    Yields:
        The run, and whether this is rank 0.

    Raises:
        OSError: A file can't be read or written.
        RankError: Another rank is gone, or is in another state; raised while the run goes on.
        ValueError: torchrun is missing, or the run can't begin as asked.
    """
    folder = out or resume_from
    missing = [name for name in NEEDED if name not in os.environ]
    if missing:
        raise ValueError(f"--distributed needs torchrun, which sets {missing[0]}: start it with {TORCHRUN}.")
    with process_group() as roll, _deferred_end() as ends:
        try:
            settings = _agree(asked, resume_from, roll)
            assert settings.shards is not None
            ranks = zo.Ranks(settings.shards)
            ranks.compare({"command line": asked})
            ranks.check_directions(settings.directions)
            leads = ranks.rank == 0
            if not leads:
                run = follow(settings, ranks)
            elif resume_from is None:
                run = train(settings, out, ranks)
            else:
                run = resume(resume_from, intact_prefix, ranks, **asked)
            yield Run(run.settings, run.done, run.note, _until(ends, run.progress)), leads
        except zo.RankError as error:
            hint = "" if folder is None else f" The same command with --resume {folder} goes on with the run."
            raise zo.RankError(f"{error}{hint}", error.ranks) from error


def _agree(asked: Mapping[str, Any], resume_from: str | None, roll: RollCall) -> Settings:
    """Rank 0's settings: only there the folder of a run need be."""
    found: list[Any] = [None]
    if dist.get_rank() == 0:
        if resume_from is None:
            found[0] = choose(**{**asked, "shards": asked["shards"] or SHARDS})
        else:
            found[0] = saved_settings(resume_from, **asked)
            if found[0].shards is None:
                raise ValueError(f"the run in {resume_from} has no ranks: leave --distributed out.")
    meet(roll, "settings", FIRST_SECONDS)
    try:
        dist.broadcast_object_list(found, 0)
    except RuntimeError as error:
        meet(roll, "failure", SILENCE_SECONDS / 4)
        raise zo.RankError("rank 0 is gone before the run began; it tells why.", (0,)) from error
    return found[0]


@contextmanager
def _deferred_end() -> Iterator[list[int]]:
    """SIGTERM waits for the end of a step; gives a list that is no longer empty when one has come.

    When a rank dies torchrun ends the others at once. They find out by themselves in the same moment, and must have
    the time to say who: after an error the process is about to end, and the signal stays deferred.
    """
    ends: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: ends.append(number))
    yield ends
    signal.signal(signal.SIGTERM, before)


def _until(ends: list[int], progress: Iterator[Progress]) -> Iterator[Progress]:
    for now in progress:
        yield now
        if ends:
            sys.exit(TERMINATED)
