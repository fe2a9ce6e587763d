"""``zo-triton tune``: every kernel with a choice of tiles, at the sizes that ``python -m benchmarks gpu`` times."""

from __future__ import annotations

from collections.abc import Callable

import torch

import zo_triton as zo
from benchmarks.gpu import kernel_work as work
from benchmarks.gpu.chip import find_chip
from benchmarks.gpu.results import StageContext
from zo_triton.tuning import Choice, Measure, device_chip, tune

HALF, SINGLE = torch.bfloat16, torch.float32

WORKS = (
    work.linear(HALF),
    work.linear(HALF, sides=2),
    work.linear(HALF, distribution="gaussian"),
    work.linear(HALF, sides=2, distribution="gaussian"),
    work.linear(HALF, rank=4),
    work.linear(SINGLE),
    work.linear(SINGLE, sides=2),
    work.convolution,
    work.mlp,
    work.accumulate("rademacher"),
    work.accumulate("gaussian"),
    work.gram,
)


def tune_everything(say: Callable[[str], None]) -> list[Choice]:
    """Measures every candidate on the GPU.

    Args:
        say: Told what runs now.
    """
    device = torch.device("cuda")
    context = StageContext(device, False, 0, find_chip().has_bfloat16)
    return tune_works(context, device_chip(device), say)


def tune_works(
    context: StageContext, chip: str, say: Callable[[str], None], measure: Measure | None = None
) -> list[Choice]:
    """Choices for all of :data:`WORKS` at the context's sizes; where situations repeat, the first counts."""
    found: dict[str, Choice] = {}
    for number, make in enumerate(WORKS, 1):
        say(f"tuning {number} of {len(WORKS)}")
        task = make(context)
        with zo.use_engine("triton"):
            for choice in tune(task.action, chip, measure):
                found.setdefault(choice.key, choice)
    return list(found.values())


def describe(choice: Choice) -> str:
    """A choice in one line."""
    own = choice.times[0][1]
    timed = f"{len(choice.times)} timed, {len(choice.pruned)} pruned"
    if choice.config is choice.own:
        return f"{choice.key}: its own config stays, {own:.3g} ms ({timed})"
    sizes = ", ".join(f"{name} {size}" for name, size in choice.config.items())
    return f"{choice.key}: {choice.speed_up:.2f} times faster with {sizes} ({timed})"
