"""Milliseconds of one training step, ours against what else a user could run, and where ours go."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import zo_triton as zo
from zo_triton import ops
from zo_triton.experiments.baselines import Backprop, ForwardGradient, MeZO, VmapEnsemble
from zo_triton.experiments.contender import Contender, make_lenet, make_mlp
from zo_triton.experiments.fused import Fused, FusedSGD, hardware_dtype
from zo_triton.experiments.timing import alternate, milliseconds, round_digits, threads

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
        return f"{self.network}, batch {self.batch}, K = {self.directions}"

    @property
    def network(self) -> str:
        """Its widths."""
        return "-".join(map(str, self.sizes))

    def make_model(self, seed: int) -> nn.Sequential:
        """The network with its first weights."""
        return make_mlp(self.sizes, seed)


@dataclass(frozen=True)
class LeNetCase(StepCase):
    """Another network between inputs and classes, the two ``sizes``."""

    sizes: tuple[int, ...] = (784, 10)
    batch: int = 64
    directions: int = 32
    network = "LeNet-5"

    def make_model(self, seed: int) -> nn.Sequential:
        """The network with its first weights."""
        return make_lenet(seed)


CASES = (
    StepCase((784, 256, 256, 10), 128, 32),
    StepCase((784, 256, 256, 10), 32, 32),
    StepCase((64, 32, 10), 128, 64),
    LeNetCase(),
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


def contenders(case: StepCase) -> list[StepContender]:
    """Ours first: the layer-wise ones in the hardware's dtype and, where that differs, in float32.

    A network small enough for it also has the whole step in compiled calls.
    """
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
        StepContender(
            "forward",
            "forward gradient, vmapped jvp",
            "zeroth",
            "float32",
            lambda m, k: ForwardGradient(m, LR, 0, k),
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
    whole = StepContender(
        "zo-whole", "fused, one-sided, whole step", "fused", "float32",
        lambda m, k: Fused(m, LR, 0, k, EPS, momentum=0.0),
    )  # fmt: skip
    trainer = whole.build(case.make_model(0), 1)
    if isinstance(trainer, Fused) and trainer.trainer.is_fused:
        listed.insert(0, whole)
    return listed


def example(case: StepCase, seed: int = 0) -> tuple[nn.Sequential, Tensor, Tensor]:
    """A network, and a batch of normal inputs with random classes."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(case.batch, case.sizes[0], generator=generator)
    y = torch.randint(case.sizes[-1], (case.batch,), generator=generator)
    return case.make_model(seed), x, y


def run_step_time(cases: Sequence[StepCase], seconds: float, say: Callable[[str], None]) -> dict[str, Any]:
    """The record's section ``step_time``; ``seconds`` are spent on each case."""
    rows = []
    for case in cases:
        say(f"step time: {case.name}")
        listed = contenders(case)
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
                "quartiles_ms": [round_digits(1000 * float(each)) for each in np.percentile(taken, (25, 75))],
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
        f"({str(hardware_dtype()).removeprefix('torch.')}; float32 where the whole step is compiled). *base*: one "
        "plain forward pass and its loss. *draw*: the generator's words for all directions, written out "
        "twice, as a step draws them for the differences and again for the update (one "
        "thread's time over the number of threads). *differences* and *update* "
        "(all K directions into the gradient, then Adam) are without their draw. *rest*: what the whole "
        "step takes beyond the parts, mostly Python."
    )
    return {"note": note, "cases": rows}


def _split(case: StepCase, seconds: float) -> tuple[dict[str, float], float]:
    model, x, y = example(case)
    params, dtype = list(model.parameters()), hardware_dtype()
    directions = zo.Directions(0, 0, case.directions)
    stepper = Fused(example(case)[0], LR, 0, case.directions, EPS)

    def closure() -> Tensor:
        return F.cross_entropy(model(x), y)

    def base() -> None:
        with torch.no_grad(), ops.whole_step(x.device):
            closure().item()

    def draw() -> None:
        with threads(1):
            for position, param in enumerate(params):
                ops.stage(directions, position, param.shape)

    if stepper.trainer.is_fused:
        measure, update = _compiled_parts(params, x, y, directions)
    else:
        measure, update = _general_parts(params, closure, directions, dtype)
    # Single calls in turns: what is subtracted was measured side by side.
    actions = [base, draw, measure, update, _bind(stepper, x, y)]
    times = alternate(actions, seconds, burst_seconds=0.0, pause_seconds=0.0)
    forward, drawn, full, add, step = (milliseconds(taken) for taken in times)
    drawn = drawn / torch.get_num_threads() if x.device.type == "cpu" else drawn
    parts = {
        "draw": 2 * drawn,
        "base": forward,
        "differences": max(0.0, full - forward - drawn),
        "update": max(0.0, add - drawn),
    }
    parts["rest"] = max(0.0, step - sum(parts.values()))
    return {name: round_digits(value) for name, value in parts.items()}, step


Parts = tuple[Callable[[], object], Callable[[], object]]
"""A step's measurement and its update, each to be timed alone."""


def _general_parts(
    params: list[nn.Parameter], closure: Callable[[], Tensor], directions: zo.Directions, dtype: torch.dtype
) -> Parts:
    """Layer by layer: the gradient is written out and torch's Adam reads it; nothing moves."""
    coefficients = torch.zeros(directions.num)
    for param in params:
        param.grad = torch.zeros_like(param)
    gradients = [param.grad for param in params if param.grad is not None]
    adam = torch.optim.Adam(params, lr=0.0, fused=True)

    def update() -> None:
        zo.accumulate(gradients, range(len(params)), coefficients, directions, dtype)
        with ops.whole_step(coefficients.device):
            adam.step()

    return lambda: zo.differences(closure, params, directions, EPS, compute_dtype=dtype), update


def _compiled_parts(params: list[nn.Parameter], x: Tensor, y: Tensor, directions: zo.Directions) -> Parts:
    """Of a step in compiled calls."""
    tensors = [param.detach().numpy().reshape(-1, param.shape[-1]) for param in params]
    first, second = ([tensor * 0 for tensor in tensors] for _ in range(2))
    rule = (0.0, 0.9, 0.999, 1.0, 1e-8, 0.0)
    steps, coefficients = np.full(directions.num, EPS, np.float32), np.zeros(directions.num, np.float32)
    return (
        lambda: ops.mlp_measure(tensors, x.numpy(), y.numpy(), directions, steps),
        lambda: ops.mlp_update(tensors, first, second, rule, coefficients, directions),
    )
