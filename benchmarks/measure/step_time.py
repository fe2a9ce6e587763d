"""Milliseconds of one training step, ours against what else a user could run, and where ours go."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import zo_triton as zo
from benchmarks.contenders.contender import Contender, Method, Setting
from benchmarks.contenders.fused import Fused, hardware_dtype
from benchmarks.contenders.registry import find_methods
from benchmarks.race.gpt import CONTEXT, TinyGPT
from benchmarks.race.networks import make_lenet, make_mlp
from benchmarks.timing import alternate, milliseconds, round_digits
from zo_triton import ops
from zo_triton._threads import torch_threads
from zo_triton.ops import engines

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

    @property
    def widest(self) -> int:
        """Values of an example in the largest activation."""
        return max(self.sizes[1:])

    def make_model(self, seed: int) -> nn.Module:
        """The network with its first weights."""
        return make_mlp(self.sizes, seed)

    def make_inputs(self, generator: torch.Generator) -> Tensor:
        """A batch of normal inputs."""
        return torch.randn(self.batch, self.sizes[0], generator=generator)


@dataclass(frozen=True)
class LeNetCase(StepCase):
    """Another network between inputs and classes, the two ``sizes``."""

    sizes: tuple[int, ...] = (784, 10)
    batch: int = 64
    directions: int = 32
    network = "LeNet-5"

    def make_model(self, seed: int) -> nn.Module:
        """The network with its first weights."""
        return make_lenet(seed)


@dataclass(frozen=True)
class TinyGPTCase(StepCase):
    """The race's transformer; the two ``sizes`` are its context and its characters."""

    sizes: tuple[int, ...] = (CONTEXT, 19)
    batch: int = 64
    directions: int = 64
    network = "tiny-gpt"

    def make_model(self, seed: int) -> nn.Module:
        """The network with its first weights."""
        return TinyGPT(self.sizes[1], self.sizes[0], seed)

    def make_inputs(self, generator: torch.Generator) -> Tensor:
        """A batch of random characters."""
        context, characters = self.sizes
        return torch.randint(characters, (self.batch, context), generator=generator).float()


CASES = (
    StepCase((784, 256, 256, 10), 128, 32),
    StepCase((784, 256, 256, 10), 32, 32),
    StepCase((64, 32, 10), 128, 64),
    TinyGPTCase(),
    LeNetCase(),
)
TINY_CASES = (StepCase((64, 32, 10), 32, 4),)


NAMES = (
    "zo-whole", "zo", "zo-activations-sgd", "zo-central", "zo-float32", "zo-rank-1", "mezo", "vmap",
    "vmap-central", "forward", "rank-one", "eggroll-jax", "evosax", "evotorch", "inference", "sgd",
)  # fmt: skip
"""Who is timed, ours first; a method that can't train a case's network, or is not installed, is left out."""


def setting(case: StepCase) -> Setting:
    """What every contender is told."""
    return Setting(LR, 0, case.directions, EPS)


def contenders(case: StepCase) -> list[Method]:
    """Those of :data:`NAMES` that are told apart on this machine and can train the network."""
    return [method for method in find_methods(NAMES) if _fits(method, case)]


def _fits(method: Method, case: StepCase) -> bool:
    if method.name == "zo-float32" and hardware_dtype() == torch.float32:
        return False
    try:
        built = method.build(case.make_model(0), replace(setting(case), directions=1))
    except ValueError:
        return False
    return method.name != "zo-whole" or (isinstance(built, Fused) and built.trainer.is_fused)


def example(case: StepCase, seed: int = 0) -> tuple[nn.Module, Tensor, Tensor]:
    """A network, and a batch of random inputs and classes."""
    generator = torch.Generator().manual_seed(seed)
    x = case.make_inputs(generator)
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
            built.append(one.build(model, setting(case)))
            actions.append(bind(built[-1], x, y))
        times = alternate(actions, seconds)
        row = [
            timed_row(one, contender.evaluations_per_step, taken)
            for one, contender, taken in zip(listed, built, times, strict=True)
        ]
        _relate(row)
        rows.append({"name": case.name, "contenders": row})
    note = (
        "Medians of one whole training step (perturb, evaluate, update), all contenders in turns in one "
        "process, compilation excluded; the last column is a step's evaluations a second over plain inference's "
        "passes a second. Zeroth-order steps walk K directions in the weights, of full rank unless said: ours "
        "Rademacher signs, the others Gaussian. *On activations*: signs on layers' outputs instead, each sample "
        "measured by its own loss. A backward pass counts as two evaluations."
    )
    return {"note": note, "cases": rows}


def _relate(rows: list[dict[str, Any]]) -> None:
    """Writes beside each contender its evaluations a second over those of plain inference."""
    rates = {row["name"]: row["evaluations"] / row["median_ms"] for row in rows}
    for row in rows:
        row["of_inference"] = round_digits(rates[row["name"]] / rates["inference"])


def timed_row(method: Method, evaluations: int, taken: Sequence[float]) -> dict[str, Any]:
    """What a record keeps of a contender's steps, which took so many seconds each."""
    return {
        "name": method.name,
        "label": method.label,
        "family": method.family,
        "dtype": method.dtype,
        "evaluations": evaluations,
        "median_ms": milliseconds(taken),
        "fastest_ms": round_digits(1000 * min(taken)),
        "quartiles_ms": [round_digits(1000 * float(each)) for each in np.percentile(taken, (25, 75))],
        "repeats": len(taken),
    }


def bind(contender: Contender, x: Tensor, y: Tensor) -> Callable[[], object]:
    """A contender's step on a batch, to be timed."""
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
        "(all K directions into the gradient, then Adam) are without their draw; a step in compiled calls draws as "
        "it goes, so that it stands with them, and its *base* is a call for one direction. *rest*: what the whole "
        "step takes beyond the parts, mostly Python."
    )
    return {"note": note, "cases": rows}


def _split(case: StepCase, seconds: float) -> tuple[dict[str, float], float]:
    model, x, y = example(case)
    params, dtype = list(model.parameters()), hardware_dtype()
    directions = zo.Directions(0, 0, case.directions)
    stepper = Fused(example(case)[0], setting(case))

    def closure() -> Tensor:
        return F.cross_entropy(model(x), y)

    def base() -> None:
        with torch.no_grad(), engines.whole_step(x.device):
            closure().item()

    def draw() -> None:
        with torch_threads(1):
            for position, param in enumerate(params):
                ops.stage(directions, position, param.shape)

    # Single calls in turns: what is subtracted was measured side by side.
    if stepper.trainer.is_fused:
        actions = [*_compiled_parts(params, x, y, directions), bind(stepper, x, y)]
        times = alternate(actions, seconds, burst_seconds=0.0, pause_seconds=0.0)
        forward, full, add, step = (milliseconds(taken) for taken in times)
        drawn = 0.0
    else:
        actions = [base, draw, *_general_parts(params, closure, directions, dtype), bind(stepper, x, y)]
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
        with engines.whole_step(coefficients.device):
            adam.step()

    return lambda: zo.differences(closure, params, directions, EPS, compute_dtype=dtype), update


def _compiled_parts(
    params: list[nn.Parameter], x: Tensor, y: Tensor, directions: zo.Directions
) -> tuple[Callable[[], object], ...]:
    """Base (with one direction), measurement and update of a step in compiled calls, which draw as they go."""
    tensors = [param.detach().numpy().reshape(-1, param.shape[-1]) for param in params]
    first, second = ([tensor * 0 for tensor in tensors] for _ in range(2))
    rule = (0.0, 0.9, 0.999, 1.0, 1e-8, 0.0)
    steps, coefficients = np.full(directions.num, EPS, np.float32), np.zeros(directions.num, np.float32)
    return (
        lambda: ops.mlp_measure(tensors, x.numpy(), y.numpy(), directions[:1], steps[:1]),
        lambda: ops.mlp_measure(tensors, x.numpy(), y.numpy(), directions, steps),
        lambda: ops.mlp_update(tensors, first, second, rule, coefficients, directions),
    )
