"""Peak memory of a training step over plain inference, each method in a process of its own.

Both figures of :mod:`benchmarks.measure.peak_memory` are the mark of one step minus that of inference. A network of
another size has warmed the libraries up before, and one step and one inference have gone uncounted, since compilers
and caches work in these.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.contenders.contender import Contender, Method, Setting
from benchmarks.contenders.fused import FusedSGD, hardware_dtype
from benchmarks.contenders.inference import Inference
from benchmarks.contenders.registry import METHODS as CONTENDERS
from benchmarks.measure.peak_memory import MIB, Excess, in_own_process, peak_of
from benchmarks.measure.step_time import StepCase, bind, example
from benchmarks.race import language
from benchmarks.race.decoders import missing
from benchmarks.race.networks import count_parameters
from benchmarks.race.pretrained import Pretraining
from benchmarks.race.races import TUNERS
from benchmarks.timing import round_digits

WARM_UP = StepCase((64, 64, 32, 10), 32, 8)

STEPPERS = ("zo", "zo-activations", "zo-rank-1", "mezo", "vmap-adam", "adam")
"""Whose memory is measured on large networks."""


@dataclass(frozen=True)
class DecoderCase(StepCase):
    """The fine-tuning race's decoder; the two ``sizes`` are its tokens and its vocabulary."""

    sizes: tuple[int, ...] = (language.LENGTH, language.VOCABULARY)
    batch: int = 16
    directions: int = 8
    network = "fine-tuning"

    @property
    def widest(self) -> int:
        """A block's hidden layer."""
        return self.sizes[0] * 4 * Pretraining().width

    def make_model(self, seed: int) -> nn.Module:
        """The decoder with random weights, of which a step's memory is the same."""
        return replace(Pretraining(), seed=seed).untrained()

    def make_inputs(self, generator: torch.Generator) -> Tensor:
        """A batch of random tokens."""
        length, vocabulary = self.sizes
        return torch.randint(vocabulary, (self.batch, length), generator=generator).float()


KINDS: dict[str, type[StepCase]] = {kind.__name__: kind for kind in (StepCase, DecoderCase)}
"""As a process is told of a case."""


class MemoryCase(NamedTuple):
    """A network, batch and K, and the contenders that are measured on it."""

    step: StepCase
    names: tuple[str, ...]


def race_case(names: Sequence[str]) -> MemoryCase:
    """The main race's contenders on its network, for the report's first screen."""
    return MemoryCase(StepCase((64, 32, 10), 64, 128), tuple(names))


def tuning_case() -> list[MemoryCase]:
    """The fine-tuning race's contenders on its decoder; none without transformers."""
    return [] if missing() else [MemoryCase(DecoderCase(), TUNERS)]


CASES = (
    MemoryCase(StepCase((784, 256, 256, 10), 128, 32), STEPPERS),
    MemoryCase(StepCase((1024, 3072, 2048, 256), 128, 32), STEPPERS),
)
TINY_CASES = (MemoryCase(StepCase((64, 32, 10), 32, 4), ("zo", "zo-activations", "mezo")),)


def find_build(name: str) -> tuple[Method, Callable[[nn.Module, int], Contender]]:
    """A contender, and how it is built from a model and K.

    The fused method evaluates all directions in one chunk: its figure is then comparable with a known size.
    """
    method = CONTENDERS[name]
    if name == "zo":
        method = replace(method, label="fused ZO-SGD, one chunk")
        return method, lambda model, k: FusedSGD(model, Setting(1e-3, 0, k), chunk=k)
    return method, lambda model, k: method.build(model, Setting(1e-3, 0, k))


def chunk_bytes(case: StepCase, dtype: torch.dtype) -> int:
    """Size of the largest activation difference when all K directions are one chunk."""
    return case.directions * case.batch * case.widest * dtype.itemsize


def run_memory(cases: Sequence[MemoryCase], say: Callable[[str], None]) -> dict[str, Any]:
    """The record's section ``memory``: MiB over inference, a process a method."""
    methods = {name: find_build(name)[0] for case in cases for name in case.names}
    measured: dict[str, Iterator[Excess]] = {}
    for name, method in methods.items():
        say(f"peak memory: {method.label}")
        measured[name] = iter(_in_subprocess(name, [case.step for case in cases if name in case.names]))
    rows = [_row(case, [(methods[name], next(measured[name])) for name in case.names]) for case in cases]
    note = (
        "Peak of the memory allocated during a training step minus that during inference on the same network "
        "and batch, counted exactly by the allocator in blocks of 16 KiB and more; each method in a process of "
        "its own; the inputs of layers that a step keeps until its update are counted, what an optimizer keeps "
        "between steps is not. *One chunk* is the largest activation "
        "difference when all K directions are evaluated at once, which the fused full-rank method is asked to "
        "do; smaller chunks need less. The record also holds resident_mib, the same from the kernel's "
        "high-water mark of resident memory."
    )
    return {"note": note, "cases": rows}


def _row(case: MemoryCase, measured: Sequence[tuple[Method, Excess]]) -> dict[str, Any]:
    weights = count_parameters(case.step.make_model(0))
    return {
        "name": f"{case.step.name}, d = {weights:,}",
        "chunk_mib": round_digits(chunk_bytes(case.step, hardware_dtype()) / MIB),
        "methods": [
            {
                "name": method.name,
                "label": method.label,
                "family": method.family,
                "excess_mib": round_digits(excess.allocated / MIB),
                "resident_mib": round_digits(excess.resident / MIB),
            }
            for method, excess in measured
        ],
    }


def _in_subprocess(name: str, cases: Sequence[StepCase]) -> list[Excess]:
    described = json.dumps(
        [[type(case).__name__, list(case.sizes), case.batch, case.directions] for case in cases]
    )
    found = in_own_process("benchmarks.measure.memory", [name, described], repr(name), 300)
    return [Excess(*each) for each in found]


def excess(build: Callable[[nn.Module, int], Contender], case: StepCase) -> Excess:
    """Measures one method in this process, which must have been started for it.

    Args:
        build: From model and K to the method.
        case: Network, batch and K.

    Raises:
        RuntimeError: The system tells no peaks, or the environment is not set.
    """
    small, x, y = example(WARM_UP)
    build(small, WARM_UP.directions).step(x, y)
    Inference(small, Setting(0.0)).step(x, y)
    model, x, y = example(case)
    inference, contender = Inference(model, Setting(0.0)), build(model, case.directions)
    peaks = []
    for each in (inference, contender):
        each.step(x, y)
        peaks.append(peak_of(bind(each, x, y)))
    less, more = peaks
    return Excess(max(0, more.allocated - less.allocated), max(0, more.resident - less.resident))


def _main() -> None:
    name, described = sys.argv[1:]
    cases = [
        KINDS[kind](tuple(sizes), batch, directions)
        for kind, sizes, batch, directions in json.loads(described)
    ]
    sys.stdout.write(json.dumps([excess(find_build(name)[1], case) for case in cases]))


if __name__ == "__main__":
    _main()
