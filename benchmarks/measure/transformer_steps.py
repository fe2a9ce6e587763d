"""What a step costs on Hugging Face's decoders: ours, the MeZO loop, vmap over copies, and a plain forward pass.

One thread and one process for all, in turns. The loop takes one direction after the other, so that one of its
directions is timed, and K of them take K times as long. Dropout is off.
"""

from __future__ import annotations

import json
import platform
import sys
import warnings
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.contenders.contender import Method, Setting
from benchmarks.contenders.fused import hardware_dtype
from benchmarks.contenders.registry import METHODS
from benchmarks.measure.peak_memory import MIB, Excess, in_own_process, peak_of
from benchmarks.measure.step_time import EPS, LR, bind, timed_row
from benchmarks.race.decoders import Decoder, gpt2, llama, missing, next_token_loss
from benchmarks.race.networks import count_parameters
from benchmarks.timing import alternate, round_digits
from zo_triton._threads import torch_threads

Say = Callable[[str], None]

OURS = ("zo-float32", "zo", "zo-medium")
"""In the dtype of all others; where the processor multiplies another one, in that, and with such products."""

RIVALS = ("mezo-1", "vmap-chunked")

MAKERS: dict[str, Callable[..., Decoder]] = {"GPT-2": gpt2, "Llama": llama, "GPT-2 small": gpt2}


@dataclass(frozen=True)
class TransformerCase:
    """A decoder, a batch of random tokens and K.

    Args:
        network: In :data:`MAKERS`.
        directions: K.
        vocabulary: Tokens that there are.
        width: Of the residual stream.
        layers: Blocks.
        heads: Of the attention.
        length: T, tokens of a sequence.
        batch: Sequences.
        rivals: Names of contenders.
    """

    network: str
    directions: int
    vocabulary: int = 1000
    width: int = 256
    layers: int = 4
    heads: int = 4
    length: int = 128
    batch: int = 8
    rivals: tuple[str, ...] = RIVALS

    @property
    def name(self) -> str:
        """How tables call it."""
        return (
            f"{self.network}, d = {self.width}, {self.layers} layers, T = {self.length}, batch {self.batch}, "
            f"K = {self.directions}"
        )

    def example(self) -> tuple[nn.Module, Tensor, Tensor]:
        """The decoder, token indices [batch, T], and the tokens that follow them."""
        generator = torch.Generator().manual_seed(1)
        tokens = torch.randint(self.vocabulary, (self.batch, self.length + 1), generator=generator)
        model = MAKERS[self.network](self.vocabulary, self.width, self.layers, self.heads, self.length)
        return model, tokens[:, :-1], tokens[:, 1:]


QUICK_CASES = (TransformerCase("GPT-2", 4),)
CASES = tuple(TransformerCase(network, k) for network in ("GPT-2", "Llama") for k in (1, 4, 16))
LARGE = TransformerCase("GPT-2 small", 4, 50257, 768, 12, 12, 64, 2, rivals=("mezo-1",))
"""GPT-2 small, 124 million weights: the one whose memory is measured."""

TINY_CASES = tuple(TransformerCase(network, 2, 32, 16, 1, 2, 8, 2) for network in ("GPT-2", "Llama"))
TINY_LARGE = replace(TINY_CASES[0], network="GPT-2 small", rivals=("mezo-1",))


def run_transformers(
    cases: Sequence[TransformerCase], large: TransformerCase | None, seconds: float, say: Say
) -> dict[str, Any]:
    """The record's section ``transformers``.

    Args:
        cases: Whose steps are timed.
        large: A case more, whose memory is measured too; None for none.
        seconds: For each case; whoever is slow is timed once at least.
        say: Told what runs now.
    """
    absent = missing()
    section: dict[str, Any] = {"note": _NOTE, "missing": absent, "cases": [], "memory": []}
    if absent:
        return section
    for case in cases if large is None else (*cases, large):
        say(f"transformers: {case.name}")
        section["cases"].append(_timed(case, seconds))
    # Peak memory is read from Linux's /proc.
    if large is not None and platform.system() == "Linux":
        section["memory"].append(_memory(large, say))
    return section


_NOTE = (
    "Medians of whole training steps on one thread, all contenders in turns in one process, each with a copy of "
    "the same random weights; dropout is off. Ours is one-sided along K directions, K + 1 evaluations. The MeZO "
    "loop is central, 2K passes, and draws each direction four times, as published; it takes one direction after "
    "the other, so that one is timed and multiplied by K. *As many evaluations* sets an evaluation of ours beside "
    "a pass of the loop, perturbation and update included in both. *vmap* is torch.func's `vmap` of "
    "`functional_call` over perturbed copies of the weights, four at once. *Passes an evaluation* is what a step "
    "takes beyond one plain forward pass, over K and over that pass. *float32, medium* is ours under "
    '`torch.set_float32_matmul_precision("medium")`: factors of products are rounded to bfloat16. All others stay '
    'at "highest": of the difference of two losses that are rounded so, ever less is left as ε falls.'
)


def methods(case: TransformerCase) -> list[Method]:
    """Who is timed, ours first: another dtype than float32 only where the processor has one."""
    ours = OURS if hardware_dtype() != torch.float32 else OURS[:1]
    return [METHODS[name] for name in (*ours, *case.rivals)]


def _timed(case: TransformerCase, seconds: float) -> dict[str, Any]:
    """A case's row: contenders as in the section ``step_time``, and a plain forward pass."""
    first, x, y = case.example()
    listed, setting = methods(case), Setting(LR, 0, case.directions, EPS, loss=next_token_loss)
    built = [method.build(deepcopy(first), setting) for method in listed]

    @torch.inference_mode()
    def forward() -> float:
        return next_token_loss(first(x), y).item()

    actions = [bind(contender, x, y) for contender in built]
    with torch_threads(1), warnings.catch_warnings():
        # vmap has no rule for the fused attention, and says that this costs it time.
        warnings.filterwarnings("ignore", message="There is a performance drop")
        times = alternate([*actions, forward], seconds, warm_up=1)
    plain = Method("forward", "plain forward pass", "inference", lambda model, setting: built[0])
    costs = [*(contender.evaluations_per_step for contender in built), 1]
    return {
        "name": case.name,
        "network": case.network,
        "directions": case.directions,
        "parameters": count_parameters(first),
        "contenders": [
            timed_row(method, evaluations, taken)
            for method, evaluations, taken in zip([*listed, plain], costs, times, strict=True)
        ],
    }


def _memory(case: TransformerCase, say: Say) -> dict[str, Any]:
    """A case's peaks over its weights, in MiB."""
    weights = count_parameters(case.example()[0])
    rows = []
    for method in methods(case):
        say(f"transformers: peak memory of {method.label}")
        described = json.dumps([method.name, *_description(case)])
        found = Excess(
            *in_own_process("benchmarks.measure.transformer_steps", [described], method.label, 300)
        )
        rows.append(
            {
                "name": method.name,
                "label": method.label,
                "family": method.family,
                "dtype": method.dtype,
                "excess_mib": round_digits(found.allocated / MIB),
                "resident_mib": round_digits(found.resident / MIB),
            }
        )
    return {
        "name": f"{case.name}, {weights:,} weights",
        "network": case.network,
        "directions": case.directions,
        "weights_mib": round_digits(4 * weights / MIB),
        "methods": rows,
    }


def _description(case: TransformerCase) -> list[Any]:
    sizes = case.vocabulary, case.width, case.layers, case.heads, case.length, case.batch
    return [case.network, case.directions, *sizes]


def over_weights(name: str, case: TransformerCase) -> Excess:
    """The peak of a method's first two steps beyond its model, in a process that was started for it.

    A small decoder has warmed the libraries up before. What a method keeps between steps counts.
    """
    for each in (TINY_CASES[0], case):
        model, x, y = each.example()
        contender = METHODS[name].build(model, Setting(LR, 0, each.directions, EPS, loss=next_token_loss))
        found = peak_of(partial(_twice, bind(contender, x, y)))
    return found


def _twice(action: Callable[[], object]) -> None:
    action()
    action()


def _main() -> None:
    name, *described = json.loads(sys.argv[1])
    with torch_threads(1):
        sys.stdout.write(json.dumps(over_weights(name, TransformerCase(*described))))


if __name__ == "__main__":
    _main()
