"""The first meeting of all ranks: torch's process group, and a name for who does not come to it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch.distributed as dist
from torch._C._distributed_c10d import TCPStore
from torch.distributed.distributed_c10d import PrefixStore, Store

from zo_triton.distributed.errors import RankError
from zo_triton.distributed.patience import within
from zo_triton.distributed.roll_call import RollCall

NEEDED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""What torchrun sets."""

FIRST_SECONDS = 600.0
"""How long the ranks wait for one another until the first step is done: each loads data and compiles kernels."""

SILENCE_SECONDS = 16.0
"""How long a process that is stopped is waited for, and one that has just been there."""


@contextmanager
def process_group(patience: float = FIRST_SECONDS) -> Iterator[RollCall]:
    """Torch's default process group inside, over gloo, of the processes that torchrun has started.

    ``dist.init_process_group`` waits for a rank that does not come without a word, for half an hour, and then names
    none. Here each says after ten seconds for whom it waits, and names who has ended, is stopped or does not come.

    Args:
        patience: Seconds to wait for all processes to have started.

    Yields:
        The list by which the ranks find out who is there.

    Raises:
        RankError: A rank has not come.
        ValueError: torchrun has not set what it sets, or there is a process group already.
    """
    missing = [name for name in NEEDED if name not in os.environ]
    if missing:
        raise ValueError(f"a process group needs torchrun, which sets {missing[0]}.")
    if dist.is_initialized():
        raise ValueError("there is a process group already; leave it with dist.destroy_process_group().")
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    store = _store(rank, size, patience)
    roll = RollCall(store, rank, size, SILENCE_SECONDS)
    meet(roll, "join", patience)
    try:
        within(2 * SILENCE_SECONDS, _form, PrefixStore("zo_triton/group", store), rank, size)
    except (RuntimeError, TimeoutError) as error:
        meet(roll, "failure", SILENCE_SECONDS / 4)
        raise RankError(f"the process group could not be formed: {error}.", ()) from error
    try:
        # From here on all ranks know one another's processes, wherever one stays away next.
        inside = RollCall(dist.distributed_c10d._get_default_store(), rank, size, SILENCE_SECONDS)
        meet(inside, "formed", patience)
        yield inside
    finally:
        dist.destroy_process_group()


def meet(roll: RollCall, event: str, patience: float) -> None:
    """Waits for all ranks before the run has begun.

    Args:
        roll: Their list.
        event: What is waited for; each takes place once.
        patience: Seconds to wait.

    Raises:
        RankError: Somebody is missing.
    """
    absence = roll.wait(event, patience)
    if absence is not None:
        roll.leave(event)
        raise roll.error(absence, 0)


def _store(rank: int, size: int, patience: float) -> Store:
    """Where the ranks leave word for one another: torchrun's, or one in rank 0."""
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    serves = rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != str(True)

    def make() -> Store:
        return TCPStore(
            address,
            port,
            size,
            serves,
            timedelta(seconds=patience),
            wait_for_workers=False,
            multi_tenant=True,
        )

    try:
        return within(patience + SILENCE_SECONDS, make)
    except (RuntimeError, TimeoutError) as error:
        raise RankError(
            f"rank 0 of {size} is silent: nobody has answered at {address}:{port} within {patience:g} s; rank "
            f"{rank} stops before the run has begun.",
            (0,),
        ) from error


def _form(store: Store, rank: int, size: int) -> None:
    dist.init_process_group(
        "gloo", store=store, rank=rank, world_size=size, timeout=timedelta(seconds=SILENCE_SECONDS)
    )
