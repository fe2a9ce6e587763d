"""What a step on many ranks costs: its parts measured here, and a model of them for numbers that are not here."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import log2
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import zo_triton as zo
from benchmarks.measure.scaling_ranks import PAYLOADS, RANKS
from benchmarks.measure.step_time import EPS, StepCase, example
from benchmarks.race.networks import count_parameters
from benchmarks.timing import alternate, milliseconds, round_digits
from zo_triton._threads import torch_threads
from zo_triton.difference import Evaluation, propagate

SECONDS_OF_RANKS = 90.0
"""After so long the two processes are given up."""


@dataclass(frozen=True)
class ScalingConfig:
    """What is measured and what is simulated.

    Args:
        sizes: Widths of the network.
        batches: Examples a step, a curve each.
        directions: K of the step that two ranks really take, on the first of the batches.
        many: K of the simulated step; a power of two.
        probes: Two numbers of directions, from whose times follow a direction's cost and what a step costs besides.
        seconds: Spent on the parts of each batch.
        bursts: Turns of two ranks; 0 starts none.
    """

    sizes: tuple[int, ...] = (784, 256, 256, 10)
    batches: tuple[int, ...] = (128, 1024)
    directions: int = 64
    many: int = 1 << 17
    probes: tuple[int, int] = (4, 12)
    seconds: float = 1.0
    bursts: int = 8


CONFIG = ScalingConfig()
TINY = ScalingConfig((64, 32, 10), (16, 32), 8, 1 << 10, (2, 6), 0.1, 0)

NETWORKS = ({"name": "100 Gb/s network", "latency_us": 5.0, "bytes_a_second": 12.5e9, "rounds": "log2"},)
"""Assumed, not measured: what fast Ethernet or InfiniBand between machines has."""


def run_scaling(config: ScalingConfig, say: Callable[[str], None]) -> dict[str, Any]:
    """The record's section ``scaling``."""
    say("scaling: parts of a step")
    parts = [_parts(config, batch) for batch in config.batches]
    two = None
    if config.bursts:
        say(f"scaling: {RANKS} ranks")
        two = _two_ranks(config)
    networks = [dict(network) for network in NETWORKS]
    if two is not None:
        loopback = {key: two[key] for key in ("latency_us", "bytes_a_second")}
        networks.insert(0, {"name": "gloo over loopback", **loopback, "rounds": "ring"})
    weights = count_parameters(StepCase(config.sizes, 1, 1).make_model(0))
    curves = [_curve(part, network, config.many) for network in networks for part in parts]
    small = [_curve(parts[0], network, config.directions) for network in networks]
    note = (
        f"Network {'-'.join(map(str, config.sizes))} ({weights:,} weights), one thread a rank, float32. *Measured* "
        f"on this machine: the parts of a step, and the step of {RANKS} ranks, each on a core of its own, in turns "
        "with one rank that takes the whole step. *Simulated*: every other number. The model of a step on W ranks: "
        "a start (base pass and what is done once), K/W directions measured, K directions applied (each rank "
        "applies all), and the exchange, rounds·α + bytes/β with W - 1 rounds in gloo's ring and log₂ W in a tree. "
        "α and β of loopback are measured; those of the network are assumed (5 µs a message, 100 Gb/s). In the "
        "model the ranks are equally fast and share no memory. A rank gets the differences of all directions, "
        f"4 bytes each; averaging gradients would move {8 * weights:,} bytes in and out of each."
    )
    return {
        "note": note,
        "directions": config.directions,
        "many": config.many,
        "weights": weights,
        "parts": parts,
        "two_ranks": two,
        "networks": networks,
        "small_curves": small,
        "curves": curves,
    }


def _curve(part: dict[str, Any], network: dict[str, Any], directions: int) -> dict[str, Any]:
    """A simulated step of so many directions by the number of ranks, powers of two up to a direction a rank."""
    counts = [1 << power for power in range(int(log2(directions)) + 1)]
    return {
        "batch": part["batch"],
        "network": network["name"],
        "directions": directions,
        "ranks": counts,
        "step_ms": [round_digits(step_ms(part, network, count, directions)) for count in counts],
        "received_bytes": [round(received_bytes(count, directions)) for count in counts],
    }


def exchange_ms(network: dict[str, Any], ranks: int, directions: int) -> float:
    """Milliseconds in which every rank gets everybody's differences, by the model."""
    if ranks == 1:
        return 0.0
    rounds = ranks - 1 if network["rounds"] == "ring" else log2(ranks)
    received = received_bytes(ranks, directions)
    return 1e-3 * rounds * network["latency_us"] + 1000 * received / network["bytes_a_second"]


def received_bytes(ranks: int, directions: int) -> float:
    """What a rank gets from the others in a step: a difference a direction, a loss a rank."""
    return (4 * directions + 8 * ranks) * (ranks - 1) / ranks


def step_ms(part: dict[str, Any], network: dict[str, Any], ranks: int, directions: int) -> float:
    """Milliseconds of a step by the model."""
    return (
        part["start_ms"]
        + directions / ranks * part["direction_ms"]
        + directions * part["update_ms"]
        + exchange_ms(network, ranks, directions)
    )


def _parts(config: ScalingConfig, batch: int) -> dict[str, Any]:
    """A step's parts on one thread: base, start, and the costs of a direction, from two numbers of directions."""
    few, more = config.probes
    model, x, y = example(StepCase(config.sizes, batch, more))
    params = list(model.parameters())
    gradients = [torch.zeros_like(param) for param in params]

    def closure() -> Tensor:
        return F.cross_entropy(model(x), y)

    def base() -> None:
        with torch.no_grad():
            closure().item()

    def measuring(count: int) -> Callable[[], object]:
        directions = zo.Directions(0, 0, count)
        plan = propagate(closure, params, directions, Evaluation(EPS, chunk=count)).plan
        return lambda: propagate(closure, params, directions, Evaluation(EPS), plan=plan)

    def applying(count: int) -> Callable[[], object]:
        directions, coefficients = zo.Directions(0, 0, count), torch.zeros(count)
        return lambda: zo.accumulate(gradients, range(len(params)), coefficients, directions)

    with torch_threads(1):
        actions: Sequence[Callable[[], object]] = (
            base, measuring(few), measuring(more), applying(4 * few), applying(4 * more),
        )  # fmt: skip
        times = [milliseconds(taken) for taken in alternate(actions, config.seconds)]
    direction = max(0.0, times[2] - times[1]) / (more - few)
    return {
        "batch": batch,
        "base_ms": times[0],
        "start_ms": round_digits(max(times[0], times[1] - few * direction)),
        "direction_ms": round_digits(direction),
        "update_ms": round_digits(max(0.0, times[4] - times[3]) / (4 * (more - few))),
    }


def _two_ranks(config: ScalingConfig) -> dict[str, Any] | None:
    """Two processes in a network namespace of their own, if this machine gives one; None if they fail."""
    sizes = ",".join(map(str, config.sizes))
    command = [
        sys.executable, "-m", "benchmarks.measure.scaling_ranks", sizes, str(config.batches[0]),
        str(config.directions), str(config.bursts),
    ]  # fmt: skip
    alone = _namespace()
    try:
        done = subprocess.run(
            [*alone, *command], capture_output=True, text=True, timeout=SECONDS_OF_RANKS, check=True
        )
    except (subprocess.SubprocessError, OSError):
        return None
    found = json.loads(done.stdout)
    if not alone:
        found["wire_bytes"] = None  # others use the interface as well
    return {
        "ranks": RANKS,
        "probe_bytes": list(PAYLOADS),
        **{key: None if value is None else round_digits(value) for key, value in found.items()},
    }


def _namespace() -> list[str]:
    """The command that runs another one in a network namespace of its own; empty where there is none."""
    if not shutil.which("unshare") or not shutil.which("ip"):
        return []
    for command in (["unshare", "--net"], ["unshare", "--map-root-user", "--net"]):
        if subprocess.run([*command, "true"], capture_output=True, check=False).returncode == 0:
            return command
    return []
