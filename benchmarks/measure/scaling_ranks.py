"""Two ranks on this machine, for the report: their step beside one's, bytes on the wire, latency of an exchange.

Run as a program it starts both ranks, each on a core of its own with one thread, and prints rank 0's findings. It
should be alone in its network namespace (``unshare --net``): the bytes are those of the loopback interface.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import torch
import torch.distributed as dist

import zo_triton as zo
from benchmarks.measure.step_time import EPS, LR, StepCase, example

RANKS = 2
BURST = 5
"""Steps in one turn of one rank alone, and of both."""

PAYLOADS = (64, 1 << 20)
"""Bytes a rank contributes: latency shows in the first, bandwidth in the second."""


def measure(case: StepCase, bursts: int) -> dict[str, Any]:
    """What one rank sees; both call it together.

    Returns:
        ``alone_ms`` and ``step_ms``, medians of a step by one rank and shared; ``payload_bytes``, what a rank
        sends; ``wire_bytes`` that a step moves over the loopback, both ranks and all protocols together;
        ``latency_us`` and ``bytes_a_second`` of an exchange.
    """
    rank = dist.get_rank()
    ranks = zo.Ranks(shards=RANKS, check_every=10**9)
    single, shared = _stepper(case, None), _stepper(case, ranks)
    for _ in range(3):
        single()
        shared()
    alone: list[float] = []
    together: list[float] = []
    moved: list[int] = []
    for _ in range(bursts):
        dist.barrier()
        if rank == 0:
            alone += [_seconds(single) for _ in range(BURST)]
        dist.barrier()
        before = _loopback_bytes()
        together += [_seconds(shared) for _ in range(BURST)]
        moved.append(_loopback_bytes() - before)
        dist.barrier()
    exchange = {size: _exchange_seconds(size) for size in PAYLOADS}
    small, large = PAYLOADS
    return {
        "alone_ms": 1000 * median(alone) if alone else None,
        "step_ms": 1000 * median(together),
        "payload_bytes": case.directions // RANKS * 4 + 8,
        "wire_bytes": median(moved) / BURST,
        "latency_us": 1e6 * exchange[small],
        "bytes_a_second": (large - small) / (exchange[large] - exchange[small]),
    }


def _stepper(case: StepCase, ranks: zo.Ranks | None) -> Callable[[], object]:
    model, x, y = example(case)
    adam = torch.optim.Adam(model.parameters(), lr=LR, fused=True)
    trainer = zo.FusedTrainer(model, adam, case.directions, EPS, ranks=ranks)
    return lambda: trainer.step(x, y)


def _exchange_seconds(size: int, repeats: int = 30) -> float:
    mine = torch.zeros(size, dtype=torch.uint8)
    out = [torch.empty_like(mine) for _ in range(RANKS)]
    dist.all_gather(out, mine)
    return median([_seconds(lambda: dist.all_gather(out, mine)) for _ in range(repeats)])


def _seconds(action: Callable[[], object]) -> float:
    start = perf_counter()
    action()
    return perf_counter() - start


def _loopback_bytes() -> int:
    """Bytes that the loopback interface of this network namespace has sent."""
    for line in Path("/proc/self/net/dev").read_text().splitlines():
        name, _, counters = line.partition(":")
        if name.strip() == "lo":
            return int(counters.split()[8])
    return 0


def _rank(case: StepCase, bursts: int) -> None:
    torch.set_num_threads(1)
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) >= RANKS:
        os.sched_setaffinity(0, {cores[int(os.environ["RANK"])]})
    dist.init_process_group("gloo")
    found = measure(case, bursts)
    if dist.get_rank() == 0:
        sys.stdout.write(json.dumps(found) + "\n")
    dist.destroy_process_group()


def main() -> int:
    """``sizes batch directions bursts``, the sizes joined by commas; starts the ranks, or is one."""
    sizes, batch, directions, bursts = sys.argv[1:]
    if "RANK" in os.environ:
        case = StepCase(tuple(map(int, sizes.split(","))), int(batch), int(directions))
        _rank(case, int(bursts))
        return 0
    # In a namespace of its own the loopback interface is there, but down.
    subprocess.run(["ip", "link", "set", "lo", "up"], check=False, capture_output=True)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    shared = {"WORLD_SIZE": str(RANKS), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    quiet = {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    command = [sys.executable, "-m", "benchmarks.measure.scaling_ranks", *sys.argv[1:]]
    running = [
        subprocess.Popen(command, env={**os.environ, **shared, **quiet, "RANK": str(rank)})
        for rank in range(RANKS)
    ]
    return max(abs(process.wait()) for process in running)


if __name__ == "__main__":
    sys.exit(main())
