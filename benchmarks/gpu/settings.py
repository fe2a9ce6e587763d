"""The plain numbers of a GPU run: its stages, how long each may take, and the shapes."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.measure.step_time import StepCase
from zo_triton.opcases import sizes

STAGES = {
    "checks": 90.0,
    "ceilings": 15.0,
    "kernels": 60.0,
    "layers": 30.0,
    "steps": 115.0,
    "digits": 40.0,
    "mnist": 100.0,
}
"""Seconds that each stage may take, its process's start included; together they stay below eight minutes."""

TINY_STAGES = dict.fromkeys(STAGES, 600.0)
"""In a tiny run, which measures nothing, on a machine that may be busy."""

SHARDED = ("checks",)
"""Stages that time nothing, whose items are dealt out to processes that compile beside each other."""

MOST_SHARDS = 8

SOFT_SHARE = 0.9
"""A stage starts nothing new beyond this share of its time."""


@dataclass(frozen=True)
class Shapes:
    """What is measured, and for how long.

    Args:
        copy_bytes: Of the tensor that is copied.
        product: Rows and columns of the square matrices whose product is the ceiling.
        sizes: Of the kernels' operands.
        steps: The step times' networks.
        walk_steps: Of each walk of the gate.
        seconds: Of timing for a row.
    """

    copy_bytes: int
    product: int
    sizes: sizes.Sizes
    steps: tuple[StepCase, ...]
    walk_steps: int
    seconds: float


FULL = Shapes(
    copy_bytes=2**30,
    product=8192,
    sizes=sizes.FULL,
    steps=(StepCase((784, 256, 256, 10), 128, 32), StepCase((784, 1024, 1024, 10), 256, 64)),
    walk_steps=100,
    seconds=0.3,
)
TINY = Shapes(
    copy_bytes=2**16,
    product=32,
    sizes=sizes.TINY,
    steps=(StepCase((12, 8, 5), 4, 2),),
    walk_steps=1,
    seconds=1e-3,
)
