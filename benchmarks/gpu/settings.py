"""The plain numbers of a GPU run: its stages, how long each may take, and the shapes."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.measure.step_time import StepCase
from benchmarks.race.loop import RaceConfig
from zo_triton.opcases import sizes

STAGES = {
    "checks": 110.0,
    "ceilings": 15.0,
    "kernels": 60.0,
    "layers": 30.0,
    "steps": 95.0,
    "digits": 40.0,
    "mnist": 100.0,
}
"""Seconds that each stage may take, its process's start included; together they stay below eight minutes."""

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

DIGITS = RaceConfig(
    batch=64,
    directions=256,
    eps=1e-4,
    learning_rates=(3e-3, 1e-2, 3e-2, 1e-1),
    trial_seconds=0.5,
    run_seconds=2.0,
    seeds=(0, 1),
    tuning_seeds=(100,),
    targets=(0.90, 0.95),
)
MNIST = RaceConfig(
    batch=128,
    directions=4096,
    eps=1e-4,
    learning_rates=(1e-3, 3e-3, 1e-2, 3e-2),
    trial_seconds=2.0,
    run_seconds=10.0,
    seeds=(0, 1),
    tuning_seeds=(100,),
    targets=(0.95, 0.97),
)
TINY_RACE = RaceConfig(
    batch=8,
    directions=2,
    eps=1e-4,
    learning_rates=(1e-2,),
    trial_seconds=1e-3,
    run_seconds=1e-3,
    seeds=(0,),
    tuning_seeds=(100,),
    targets=(0.90, 0.95),
)
"""Proves that everything works, measures nothing."""
