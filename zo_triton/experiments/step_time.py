"""Milliseconds of one training step, ours against what else a user could run, and where ours go."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import zo_triton as zo
from zo_triton.experiments.baselines import Backprop, MeZO, VmapEnsemble
from zo_triton.experiments.contender import Contender, make_mlp
from zo_triton.experiments.fused import FusedAdam, FusedSGD, hardware_dtype
from zo_triton.experiments.timing import alternate, milliseconds, round_digits

LR = 1e-3
EPS = 1e-4


@dataclass(frozen=True)
class StepCase:
    """One network, batch and number of directions."""

    sizes: tuple[int, ...]
    batch: int
    directions: int

    @property
    def name(self) -> str:
        """How tables call it."""
        return f"{'-'.join(map(str, self.sizes))}, batch {self.batch}, K = {self.directions}"


CASES = (
    StepCase((784, 256, 256, 10), 128, 32),
    StepCase((784, 256, 256, 10), 32, 32),
    StepCase((64, 32, 10), 128, 64),
)
TINY_CASES = (StepCase((64, 32, 10), 32, 4),)


@dataclass(frozen=True)
class StepContender:
    """A step to be timed.

    Args:
        name: Key in records.
        label: How tables call it.
        family: ``fused``, ``zeroth``, ``first`` or ``inference``.
        dtype: What its evaluations compute in.
        build: From model and K to the thing with a ``step``.
    """

    name: str
    label: str
    family: str
    dtype: str
    build: Callable[[nn.Module, int], Contender]


class Inference:
    """2K plain forward passes, the yardstick of "cost of inference"; trains nothing."""

    def __init__(self, model: nn.Module, directions: int) -> None:
        self.model, self.evaluations_per_step = model, 2 * directions

    @torch.inference_mode()
    def step(self, x: Tensor, y: Tensor) -> float:
        """Returns the loss of the last pass."""
        for _ in range(self.evaluations_per_step):
            output = self.model(x)
        return F.cross_entropy(output, y).item()


def contenders() -> list[StepContender]:
    """Ours first; ``fused`` ones in the hardware's dtype, and one in float32 where that differs."""
    fast = hardware_dtype()
    name = str(fast).removeprefix("torch.")
    listed = [
        StepContender("zo", "fused, one-sided", "fused", name, lambda m, k: FusedSGD(m, LR, 0, k, EPS)),
        StepContender(
            "zo-central", "fused, central", "fused", name, lambda m, k: FusedSGD(m, LR, 0, k, EPS, sides=2)
        ),
        StepContender("mezo", "MeZO loop", "zeroth", "float32", lambda m, k: MeZO(m, LR, 0, k)),
        StepContender("vmap", "vmap, one-sided", "zeroth", "float32", lambda m, k: VmapEnsemble(m, LR, 0, k)),
        StepContender(
            "vmap-central",
            "vmap, central",
            "zeroth",
            "float32",
            lambda m, k: VmapEnsemble(m, LR, 0, k, sides=2),
        ),
        StepContender("inference", "2K inference passes", "inference", "float32", Inference),
        StepContender("sgd", "backprop + SGD", "first", "float32", lambda m, k: Backprop(m, LR, adam=False)),
    ]
    if fast != torch.float32:
        plain = StepContender(
            "zo-float32",
            "fused, one-sided, float32",
            "fused",
            "float32",
            lambda m, k: FusedSGD(m, LR, 0, k, EPS, compute_dtype=torch.float32),
        )
        listed.insert(2, plain)
    return listed


def example(case: StepCase, seed: int = 0) -> tuple[nn.Sequential, Tensor, Tensor]:
    """A network, and a batch of normal inputs with random classes."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(case.batch, case.sizes[0], generator=generator)
    y = torch.randint(case.sizes[-1], (case.batch,), generator=generator)
    return make_mlp(case.sizes, seed), x, y


def run_step_time(cases: Sequence[StepCase], seconds: float, say: Callable[[str], None]) -> dict[str, Any]:
    """The record's section ``step_time``; ``seconds`` are spent on each case."""
    rows = []
    for case in cases:
        say(f"step time: {case.name}")
        listed = contenders()
        built, actions = [], []
        for one in listed:
            # Every contender trains a model of its own: none may move another's weights.
            model, x, y = example(case)
            built.append(one.build(model, case.directions))
            actions.append(_bind(built[-1], x, y))
        times = alternate(actions, seconds)
        row = [
            {
                "name": one.name,
                "label": one.label,
                "family": one.family,
                "dtype": one.dtype,
                "evaluations": contender.evaluations_per_step,
                "median_ms": milliseconds(taken),
                "fastest_ms": round_digits(1000 * min(taken)),
                "repeats": len(taken),
            }
            for one, contender, taken in zip(listed, built, times, strict=True)
        ]
        rows.append({"name": case.name, "contenders": row})
    note = (
        "Medians of one whole training step (perturb, evaluate, update), all contenders in turns in one "
        "process, compilation excluded. Zeroth-order steps walk K full-rank directions: ours Rademacher "
        "signs, the others Gaussian. A backward pass counts as two evaluations."
    )
    return {"note": note, "cases": rows}


def _bind(contender: Contender, x: Tensor, y: Tensor) -> Callable[[], object]:
    return lambda: contender.step(x, y)


def run_step_split(cases: Sequence[StepCase], seconds: float, say: Callable[[str], None]) -> dict[str, Any]:
    """The record's section ``step_split``: draw, base, differences and update of the fused step with Adam."""
    rows = []
    for case in cases:
        say(f"step split: {case.name}")
        parts, step = _split(case, seconds)
        rows.append({"name": case.name, "parts": parts, "step_ms": step})
    note = (
        "Each part is timed alone, in turns with the whole step, which is one fused one-sided step with Adam "
        f"({str(hardware_dtype()).removeprefix('torch.')}). *base*: one plain forward pass and its loss. "
        "*draw*: the generator sits inside the kernels; its cost is 10/3 of what the step saves with 7 "
        "Philox rounds instead of 10. *differences* and *update* (all K directions into the gradient, then "
        "Adam) are without their draw. *rest*: what the whole step takes beyond the parts, mostly Python."
    )
    return {"note": note, "cases": rows}


def _split(case: StepCase, seconds: float) -> tuple[dict[str, float], float]:
    model, x, y = example(case)
    params, dtype = list(model.parameters()), hardware_dtype()
    coefficients = torch.zeros(case.directions)

    def closure() -> Tensor:
        return F.cross_entropy(model(x), y)

    def base() -> None:
        with torch.no_grad():
            closure().item()

    def measure(rounds: int) -> Callable[[], object]:
        directions = zo.Directions(0, 0, case.directions, rounds=rounds)
        return lambda: zo.differences(closure, params, directions, EPS, compute_dtype=dtype)

    def update(rounds: int) -> Callable[[], object]:
        directions = zo.Directions(0, 0, case.directions, rounds=rounds)
        return lambda: zo.accumulate(params, range(len(params)), coefficients, directions, dtype)

    stepper = FusedAdam(example(case)[0], LR, 0, case.directions, EPS, compute_dtype=dtype)
    trained = FusedAdam(example(case)[0], 0.0, 0, case.directions, EPS, compute_dtype=dtype)
    trained.step(x, y)
    actions = [
        base, measure(10), measure(7), update(10), update(7), trained.optimizer.step, _bind(stepper, x, y),
    ]  # fmt: skip
    # Single calls in turns: what is subtracted was measured side by side.
    times = alternate(actions, seconds, burst_seconds=0.0, pause_seconds=0.0)
    forward, full, _, add, _, adam, step = (milliseconds(taken) for taken in times)
    draw_there = min(_drawing(times[1], times[2]), max(0.0, full - forward))
    draw_back = min(_drawing(times[3], times[4]), add)
    parts = {
        "draw": draw_there + draw_back,
        "base": forward,
        "differences": max(0.0, full - forward - draw_there),
        "update": add - draw_back + adam,
    }
    parts["rest"] = max(0.0, step - sum(parts.values()))
    return {name: round_digits(value) for name, value in parts.items()}, step


def _drawing(ten_rounds: Sequence[float], seven_rounds: Sequence[float]) -> float:
    """Milliseconds of ten Philox rounds, from pairs of calls with ten and with seven."""
    saved = milliseconds([ten - seven for ten, seven in zip(ten_rounds, seven_rounds, strict=True)])
    return max(0.0, saved * 10 / 3)
