"""The real network in parameter space, with the ordinary zeroth-order step that the paper takes.

100 directions a step, forward passes only; ``average`` is the usual estimator, ``best`` keeps the direction of the
steepest slope alone, as the paper's own run does. Directions are signs: of independent coordinates with the same
mean, and the fused kernels evaluate them several times faster than Gaussian ones.
"""

from __future__ import annotations

import copy
import multiprocessing
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import isfinite
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

import zo_triton as zo

AGGREGATORS = ("average", "best")

WORTH_A_PROCESS = 2_000
"""Steps from which on a run is given a process of its own; starting one takes seconds."""

_counters: Any = None


@dataclass(frozen=True)
class NetworkRun:
    """What a process needs to train the real network.

    Args:
        place: Position of the run's step counter.
        model: The network at its first weights.
        inputs: [n, features] float32.
        targets: [n] float32.
        aggregator: One of :data:`AGGREGATORS`.
        lr: η.
        steps: How many.
        directions: K.
        eps: ε.
        seed: Of the directions.
        engine: reference, cpu or triton; None lets the device decide.
        device: Where to run.
    """

    place: int
    model: nn.Sequential
    inputs: np.ndarray
    targets: np.ndarray
    aggregator: str
    lr: float
    steps: int
    directions: int
    eps: float
    seed: int
    engine: str | None
    device: str


def train_network(run: NetworkRun, tell: Callable[[int], None] = lambda step: None) -> list[float]:
    """Losses (1/2n)|f - y|² before each step and after the last; ends early where the loss is not finite."""
    model = copy.deepcopy(run.model).to(run.device)
    x = torch.from_numpy(run.inputs).to(run.device)
    y = torch.from_numpy(run.targets).to(run.device)[:, None]

    def loss() -> torch.Tensor:
        return 0.5 * F.mse_loss(model(x), y)

    optimizer = zo.ZOSGD(
        model.parameters(), run.lr, run.directions, run.eps, run.seed, aggregator=run.aggregator
    )
    losses: list[float] = []
    with zo.use_engine(run.engine):
        for step in range(run.steps):
            try:
                losses.append(optimizer.step(loss))
            except zo.NonFiniteLossError:  # this run has diverged
                return losses
            if step % 32 == 0:
                tell(step)
    with torch.no_grad():
        last = float(loss())
    return [*losses, last] if isfinite(last) else losses


@contextmanager
def background(runs: list[NetworkRun]) -> Iterator[Callable[[Callable[[int], None]], list[list[float]]]]:
    """Starts the runs, each on one thread of its own process, and gives a function that waits for them.

    Short runs are done by that function itself, one after the other.
    """
    if not runs or runs[0].steps < WORTH_A_PROCESS:
        yield lambda tell: [train_network(run, tell) for run in runs]
        return
    # A forked child would inherit the thread pools' locks; a fresh interpreter has none.
    context = multiprocessing.get_context("spawn")
    counters = context.Array("q", len(runs), lock=False)
    with context.Pool(len(runs), _start_worker, (counters,)) as pool:
        pending = [pool.apply_async(_in_worker, (run,)) for run in runs]

        def wait(tell: Callable[[int], None]) -> list[list[float]]:
            for result in pending:
                while not result.ready():
                    tell(min(counters))
                    result.wait(0.5)
            return [result.get() for result in pending]

        # Leaving the block ends the processes, whatever happened.
        yield wait


def _start_worker(counters: Any) -> None:
    global _counters
    _counters = counters
    # An interrupt reaches the parent too, which ends this process without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)


def _in_worker(run: NetworkRun) -> list[float]:
    def tell(step: int) -> None:
        _counters[run.place] = step

    return train_network(run, tell)
