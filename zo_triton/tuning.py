"""Finding out which tile sizes are fastest on a device, and keeping them for it.

The candidates are plain data (:data:`zo_triton.kernels.choices.CANDIDATES`). The static model weeds them first:
each is compiled, and what spills, does not fit or is predicted to be far slower than the best is never timed. What
is left is timed on the device beside the launcher's own config, which stays unless another one is clearly faster.
``zo-triton tune`` does so for every operation that has candidates, at the sizes at which kernels are timed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from zo_triton import ops
from zo_triton._chip import find_chip
from zo_triton.compilation.compiler import figures, interpreted
from zo_triton.compilation.targets import TARGETS, Chip
from zo_triton.kernels.choices import Config, asking, candidates, trying
from zo_triton.kernels.launch import Launch, chip_of, recording
from zo_triton.opcases import Case, RandomOperands
from zo_triton.opcases.sizes import FULL, Sizes

SLACK = 1.5
"""A candidate that the static model expects to be this many times slower than the best one is not timed."""

MARGIN = 0.98
"""A candidate replaces the launcher's own only below this share of its time: less is noise."""

Measure = Callable[[Callable[[], object]], float]


@dataclass(frozen=True)
class Choice:
    """What was found for one situation.

    Attributes:
        key: The situation.
        own: The launcher's own config.
        config: The fastest.
        times: Milliseconds by config, as (config, time) pairs, the launcher's own first.
        pruned: Configs that were not timed, each with the reason.
    """

    key: str
    own: Config
    config: Config
    times: Sequence[tuple[Config, float]]
    pruned: Sequence[tuple[Config, str]]

    @property
    def speed_up(self) -> float:
        """The own config's time over the fastest one's."""
        return self.times[0][1] / min(taken for _, taken in self.times)


def tune(action: Callable[[], object], chip: str, measure: Measure | None = None) -> list[Choice]:
    """Finds the fastest configs for what a call launches.

    Args:
        action: Calls operations on the device, always the same ones. It runs many times, and once for each
            candidate with launches that compute nothing.
        chip: As from :func:`zo_triton.kernels.launch.chip_of`; one that the static model doesn't know is
            measured without it.
        measure: From a call to its milliseconds; None takes ``triton.testing.do_bench``'s median.

    Returns:
        One choice for each situation that has candidates.
    """
    from triton.testing import do_bench

    timed: Measure = measure or (lambda call: float(do_bench(call, return_mode="median")))
    with asking() as asked, recording(), trying({}):
        action()
    return [
        _choose(action, key, own, TARGETS.get(chip), timed) for key, own in asked.items() if candidates(key)
    ]


def _choose(
    action: Callable[[], object], key: str, own: Config, chip: Chip | None, measure: Measure
) -> Choice:
    others = [config for config in candidates(key) if dict(config) != dict(own)]
    promising, pruned = prune(action, key, [own, *others], chip)
    times: list[tuple[Config, float]] = []
    for config in [own, *(config for config in promising if config is not own)]:
        try:
            with trying({key: config}):
                times.append((config, measure(action)))
        # A launch that the device refuses is a candidate less; the launcher's own must work.
        except Exception as error:
            if config is own:
                raise
            pruned.append((config, f"{type(error).__name__}: {error}".splitlines()[0]))
    best, taken = min(times, key=lambda pair: pair[1])
    return Choice(key, own, best if taken < MARGIN * times[0][1] else own, times, pruned)


def prune(
    action: Callable[[], object], key: str, configs: Sequence[Config], chip: Chip | None
) -> tuple[list[Config], list[tuple[Config, str]]]:
    """Weeds configs by their machine code.

    Args:
        action: As in :func:`tune`.
        key: The situation.
        configs: To be compiled.
        chip: Compiled for; None prunes nothing.

    Returns:
        Those worth timing, and the others with the reason.
    """
    if chip is None or interpreted():
        return list(configs), []
    speeds: list[tuple[Config, float | None]] = []
    pruned: list[tuple[Config, str]] = []
    for config in configs:
        try:
            found = figures(_launch(action, key, config), chip)
        # The compilers raise whatever they please.
        except Exception as error:
            pruned.append((config, f"{type(error).__name__}: {error}".splitlines()[0]))
            continue
        reason = found["error"] or (f"spills {found['spills']} registers" if found["spills"] else "")
        if reason:
            pruned.append((config, reason))
        else:
            speeds.append((config, predicted(found)))
    known = [speed for _, speed in speeds if speed is not None]
    slowest = max(known) / SLACK if known else 0.0
    keep = [config for config, speed in speeds if speed is None or speed >= slowest]
    pruned += [
        (config, f"predicted {max(known) / speed:.1f} times slower than the best")
        for config, speed in speeds
        if speed is not None and speed < slowest
    ]
    return keep, pruned


def predicted(found: Mapping[str, Any]) -> float | None:
    """Useful work a clock by the static roofline, on a scale of the kernel's own; None where it has none."""
    roof = found["roofline"]
    speed = roof["overlapped"] or roof["values_per_clock"]
    return speed and speed * found["filled"]


def _launch(action: Callable[[], object], key: str, config: Config) -> Launch:
    """The last launch that takes the config."""
    with recording() as launches, trying({key: config}):
        action()
    fitting = [
        launch
        for launch in launches
        if all(launch.arguments.get(name) == size for name, size in config.items())
    ]
    if not fitting:
        raise ValueError(f"no launch of {key!r} takes {dict(config)} as it is.")
    return fitting[-1]


def tune_everything(say: Callable[[str], None]) -> list[Choice]:
    """Measures every candidate on the GPU.

    Args:
        say: Told what runs now.
    """
    device = torch.device("cuda")
    dtype = torch.bfloat16 if find_chip().has_bfloat16 else torch.float32
    chip = chip_of(torch.empty(0, dtype=torch.float32, device=device))
    return tune_cases(tuned_cases(FULL, dtype), device, chip, say)


def tuned_cases(sizes: Sizes, dtype: torch.dtype) -> list[Case]:
    """Every situation that has candidates.

    Args:
        sizes: Of the operands.
        dtype: Of what is tuned in one dtype alone.
    """
    half, single = torch.bfloat16, torch.float32
    return [
        sizes.linear(half),
        sizes.linear(half, sides=2),
        sizes.linear(half, distribution="gaussian"),
        sizes.linear(half, sides=2, distribution="gaussian"),
        sizes.linear(half, rank=4),
        sizes.linear(single),
        sizes.linear(single, sides=2),
        sizes.convolution(dtype),
        sizes.whole_network(),
        sizes.node_linear(half),
        sizes.node_linear(single),
        sizes.node_convolution(dtype),
        sizes.node_network(),
        sizes.accumulate("rademacher"),
        sizes.accumulate("gaussian"),
        sizes.gram(),
    ]


def tune_cases(
    cases: Sequence[Case],
    device: torch.device,
    chip: str,
    say: Callable[[str], None],
    measure: Measure | None = None,
) -> list[Choice]:
    """Choices for all the cases; where situations repeat, the first counts.

    Args:
        cases: Whose launches are tuned.
        device: Where they run.
        chip: As in :func:`tune`.
        say: Told what runs now.
        measure: As in :func:`tune`.
    """
    found: dict[str, Choice] = {}
    for number, case in enumerate(cases, 1):
        say(f"tuning {number} of {len(cases)}")
        action = partial(case.run, case.arguments(RandomOperands(device, seed=0)))
        with ops.use_engine("triton"):
            for choice in tune(action, chip, measure):
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
