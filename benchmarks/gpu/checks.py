"""Every operation on this device against the float64 reference, on random inputs that are new in every run.

Results are written into memory that is filled with NaN before the call. Allowed errors are those of the kernels'
tests: none for signs, twice torch's own for products in the same dtype, a few roundings elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import isfinite
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import zo_triton as zo
from benchmarks.contenders.contender import LeftOutError, Setting
from benchmarks.contenders.cuda_graphs import RecordedZO
from benchmarks.gpu.kernel_times import compile_ahead
from benchmarks.gpu.layer_checks import LAYERS
from benchmarks.gpu.node_checks import NODES
from benchmarks.gpu.results import FAILED, PASSED, StageContext, StageResults
from benchmarks.gpu.trial import Check, Trial, absolute_error, relative_error, share_of_unequal
from benchmarks.measure.accuracy import direct_differences
from benchmarks.timing import round_digits
from zo_triton.directions import seed_after
from zo_triton.opcases import (
    ActivationCase,
    CrossEntropyCase,
    GramCase,
    LargestCase,
    RoundingCase,
    SampleCase,
    StageCase,
    UpdateCase,
)
from zo_triton.ops import on_grid

FLOAT, HALF = torch.float32, torch.bfloat16
Run = Callable[[Trial], tuple[float, float]]

FIELD_ERROR = 1e-5
"""Of Gaussian and Laplace values, absolute: logarithm and cosine in float32."""

ROUNDING = {FLOAT: 1e-6, HALF: 2.0**-8}
LOSS_ROUNDING = 2e-6


def run_checks(results: StageResults) -> None:
    """The sections ``gpu_checks`` and ``gate``."""
    context = results.context
    start: dict[str, Any] = {
        "note": (
            f"Fresh random inputs (seed {context.seed}), outputs filled with NaN before each call, against "
            "float64. The error is relative to the results' size, for fields absolute."
        ),
        "seed": context.seed,
        "rows": [],
    }
    section = results.section("gpu_checks", start)
    for number, check in results.turns("checks", tuple(enumerate(CHECKS))):
        section["rows"].append(_row(check, results, number))
        results.put("gpu_checks", section)
    if results.shard == 0:
        _walk(results)
    if context.device.type == "cuda":
        compile_ahead(results)


def _row(check: Check, results: StageResults, number: int) -> dict[str, Any]:
    what = f"{check.op}: {check.label}"
    row: dict[str, Any] = {"op": check.op, "case": check.label, "error": None, "allowed": None}
    found = results.attempt(what, lambda: _measure(check, results.context, number))
    if found is None:
        return {**row, "status": results.incidents[-1]["status"]}
    error, allowed = found
    row["error"], row["allowed"] = round_digits(error, 3) if isfinite(error) else None, allowed
    if not error <= allowed:
        results.report(what, FAILED, f"the error is {error:.2g}, allowed are {allowed:.2g}.")
    return {**row, "status": PASSED if error <= allowed else FAILED}


def _measure(check: Check, context: StageContext, number: int) -> tuple[float, float]:
    context.need(check.dtype)
    # Each check has a stream of its own: one more in the list changes no other's inputs.
    found = check.run(Trial(context.device, context.tiny, seed_after(context.seed, 1000 * number)))
    context.clock.wait()
    return found


def _walk(results: StageResults) -> None:
    """Training through the kernels must follow the theory's recursion."""

    def walk() -> dict[str, Any]:
        from benchmarks.measure.gates import check_walks

        steps = results.context.shapes.walk_steps
        note = (
            "A linear model under squared loss, trained through the fused kernels (float32, signs), against the "
            "realised-kernel recursion of the NZK theory in float64 (arXiv 2603.21169). The error is the largest "
            "over all steps, relative to the outputs."
        )
        return {"note": note, "rows": check_walks(steps, results.context.device)}

    found = results.attempt("walks against the kernel recursion", walk)
    if found is not None:
        results.put("gate", found)


def _sample(distribution: str, rank: int | None = None, listed: int | None = None) -> Run:
    def run(trial: Trial) -> tuple[float, float]:
        directions = trial.directions(distribution, rank)
        case = SampleCase(directions=directions, rows=37, cols=67, tensor_id=3, listed=listed)
        exact = distribution == "rademacher" and rank is None
        return absolute_error(*trial.compare(case)), 0.0 if exact else 2 * FIELD_ERROR

    return run


def _stage(trial: Trial) -> tuple[float, float]:
    case = StageCase(directions=trial.directions("rademacher"), rows=37, cols=67, tensor_id=3)
    return share_of_unequal(*trial.compare(case)), 0.0


def _accumulate(distribution: str, *shapes: tuple[int, ...]) -> Run:
    def run(trial: Trial) -> tuple[float, float]:
        case = UpdateCase(directions=trial.directions(distribution), shapes=shapes)
        arguments = case.arguments(trial.operands)
        wanted, total = case.exact(arguments), arguments[2].abs().sum().item()
        drawn = 0.0 if distribution == "rademacher" else FIELD_ERROR * total
        rounded = 2.0**-22 * (case.directions.num + 1) * (wanted.abs().max().item() + total)
        return absolute_error(trial.run(case, arguments), wanted), round_digits(rounded + drawn, 3)

    return run


def _accumulate_in_parts(trial: Trial) -> tuple[float, float]:
    """Sums of signs on a grid are exact, however many programs share them, and round once."""
    directions = replace(trial.directions("rademacher"), num=33 if trial.tiny else 1000)
    case = UpdateCase(directions=directions, shapes=[(37, 67), (97,), (10, 33)])
    tensors, ids, coefficients, *rest = case.arguments(trial.operands)
    arguments = (tensors, ids, on_grid(coefficients), *rest)
    return share_of_unequal(trial.run(case, arguments), case.exact(arguments).float()), 0.0


def _stochastic_add(dtype: torch.dtype) -> Run:
    def run(trial: Trial) -> tuple[float, float]:
        case = RoundingCase(
            directions=trial.directions("rademacher"), shape=(37, 67), dtype=dtype, tensor_id=3
        )
        return share_of_unequal(*trial.compare(case)), 0.0

    return run


def _gram(distribution: str) -> Run:
    def run(trial: Trial) -> tuple[float, float]:
        case = GramCase(directions=trial.directions(distribution), shapes=[(37, 67), (97,)])
        allowed = 1e-14 if distribution == "rademacher" else LOSS_ROUNDING
        return relative_error(*trial.compare(case)), allowed

    return run


def _activation(name: str, dtype: torch.dtype) -> Run:
    case = ActivationCase(evaluations=3, samples=31, features=67, activation=name, dtype=dtype)
    return lambda trial: (relative_error(*trial.compare(case)), ROUNDING[dtype])


def _cross_entropy(smoothing: float) -> Run:
    case = CrossEntropyCase(evaluations=3, samples=33, classes=131, smoothing=smoothing)

    def run(trial: Trial) -> tuple[float, float]:
        arguments = case.arguments(trial.operands)
        size = arguments[2].abs().max().item()
        found = trial.run(case, arguments)
        return absolute_error(found, case.exact(arguments)) / size, LOSS_ROUNDING

    return run


def _largest(trial: Trial) -> tuple[float, float]:
    case = LargestCase(evaluations=2, planes=103, side=7, window=3, padding=1)
    return relative_error(*trial.compare(case)), ROUNDING[FLOAT]


def _differences(trial: Trial) -> tuple[float, float]:
    """A whole convolutional network, seen by difference propagation, against two float64 losses."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(trial.seed)
        model = nn.Sequential(
            nn.Unflatten(1, (2, 8, 8)), nn.Conv2d(2, 5, 3, padding=1), nn.GELU(), nn.MaxPool2d(2), nn.Flatten(),
            nn.Linear(80, 33), nn.ReLU(), nn.Linear(33, 5),
        )  # fmt: skip
    x, y = trial.operands.normal(9, 128), trial.operands.integers(5, 9)
    directions, eps = trial.directions("rademacher"), 1e-3
    params = list(model.parameters())
    with zo.use_engine("reference"):
        noise = [zo.sample(directions, number, param.shape) for number, param in enumerate(params)]
    wanted = direct_differences(model, x, y, noise, eps, torch.float64)
    model, x, y = model.to(trial.device), trial.place(x), trial.place(y)
    _, found = zo.differences(lambda: F.cross_entropy(model(x), y), list(model.parameters()), directions, eps)
    return relative_error(found, wanted), 1e-4


def _captured(trial: Trial) -> tuple[float, float]:
    """Three replays of a recorded step against three ordinary steps from the same weights."""
    if trial.device.type != "cuda":
        raise LeftOutError("CUDA graphs need a GPU.")
    weights = [trial.operands.normal(200, 40) / 7, trial.operands.normal(5, 200) / 14]
    x, y = trial.place(trial.operands.normal(32, 40)), trial.place(trial.operands.integers(5, 32))
    results: list[Tensor] = []
    for recorded in (True, False):
        layers = [nn.utils.skip_init(nn.Linear, w.shape[1], w.shape[0], bias=False) for w in weights]
        for layer, weight in zip(layers, weights, strict=True):
            layer.weight.data.copy_(weight)
        model = nn.Sequential(layers[0], nn.ReLU(), layers[1]).to(trial.device)
        stepper = RecordedZO(model, Setting(1e-2, 0, 16, 1e-3), momentum=0.9, dtype=FLOAT)
        stepper.prepare(x, y, recorded)
        for _ in range(3):
            stepper.step(x, y)
        results.append(torch.cat([param.detach().flatten() for param in model.parameters()]))
    return relative_error(results[0], results[1].cpu().double()), 1e-5


_FIELDS = (
    Check("sample", "signs", FLOAT, _sample("rademacher")),
    Check("sample", "Gaussian", FLOAT, _sample("gaussian")),
    Check("sample", "Laplace", FLOAT, _sample("laplace")),
    Check("sample", "uniform", FLOAT, _sample("uniform")),
    Check("sample", "signs of rank 3", FLOAT, _sample("rademacher", rank=3)),
    Check("sample", "signs, only some rows", FLOAT, _sample("rademacher", listed=9)),
    Check("stage", "signs", FLOAT, _stage),
    Check("accumulate", "signs", FLOAT, _accumulate("rademacher", (37, 67), (97,))),
    Check("accumulate", "signs, one tensor", FLOAT, _accumulate("rademacher", (37, 67))),
    Check("accumulate", "signs, many directions", FLOAT, _accumulate_in_parts),
    Check("accumulate", "Gaussian", FLOAT, _accumulate("gaussian", (37, 67), (97,))),
    Check("stochastic_add", "bfloat16", HALF, _stochastic_add(HALF)),
    Check("stochastic_add", "float16", FLOAT, _stochastic_add(torch.float16)),
    Check("gram", "signs", FLOAT, _gram("rademacher")),
    Check("gram", "Gaussian", FLOAT, _gram("gaussian")),
)
_LOSSES = (
    Check("activation_difference", "GELU", FLOAT, _activation("gelu", FLOAT)),
    Check("activation_difference", "tanh", FLOAT, _activation("tanh", FLOAT)),
    Check("activation_difference", "SiLU, bfloat16", HALF, _activation("silu", HALF)),
    Check("cross_entropy_difference", "classes", FLOAT, _cross_entropy(0.0)),
    Check("cross_entropy_difference", "smoothed labels", FLOAT, _cross_entropy(0.1)),
    Check("largest_difference", "windows that overlap", FLOAT, _largest),
    Check("differences", "a convolutional network", FLOAT, _differences),
)
CHECKS = (
    Check("CapturedStep", "against ordinary steps", FLOAT, _captured), *LAYERS, *NODES, *_FIELDS, *_LOSSES,
)  # fmt: skip
"""What only a GPU can tell comes first."""
