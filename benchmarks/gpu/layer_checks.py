"""The fused layers against float64: products at most twice as far off as torch's own in the same dtype."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from benchmarks.gpu.trial import Check, Trial, relative_error
from benchmarks.timing import round_digits
from zo_triton import reference
from zo_triton.opcases import Arguments, ConvolutionCase, LayerCase, LinearCase, NetworkCase

FLOAT, HALF = torch.float32, torch.bfloat16
CPU = torch.device("cpu")
WHOLE_ERROR = 2e-6
"""Of a float32 layer with bias and activation, and of a whole network's loss, relative to the largest value."""

Run = Callable[[Trial], tuple[float, float]]
Make = Callable[..., LayerCase]

LINEAR: Make = partial(LinearCase, samples=33, inputs=77, outputs=37)
"""A row past a tile, features that no block divides, a prime number of outputs."""

ALIGNED: Make = partial(LinearCase, samples=256, inputs=512, outputs=256)
SMALL: Make = partial(LinearCase, samples=64, inputs=64, outputs=64)
"""Whole tiles, and whole tiles of the interpreter."""

WIDE: Make = partial(LinearCase, inputs=4096, outputs=4096)
"""A layer as large models have them, for one direction; what it computes twice must be the same bits."""

CONVOLUTION: Make = partial(
    ConvolutionCase, samples=3, channels=(6, 14), size=(11, 13), kernel=(3, 2), stride=(1, 2), padding=(1, 2),
    dilation=(2, 1), groups=2,
)  # fmt: skip


def _products(
    make: Make,
    distribution: str,
    dtype: torch.dtype,
    sides: int = 1,
    first: bool = False,
    rank: int | None = None,
) -> Run:
    """Neither bias nor activation."""

    def run(trial: Trial) -> tuple[float, float]:
        return _against_torch((SMALL if make is ALIGNED and trial.tiny else make)(
            directions=trial.directions(distribution, rank), dtype=dtype, sides=sides, first=first,
            has_bias=False, activation="none",
        ), trial)[:2]  # fmt: skip

    return run


def _wide(samples: int, distribution: str, sides: int = 1, first: bool = False) -> Run:
    """In bfloat16, neither bias nor activation."""

    def run(trial: Trial) -> tuple[float, float]:
        make = SMALL if trial.tiny else partial(WIDE, samples=samples)
        case = make(
            directions=trial.directions(distribution)[:1], dtype=HALF, sides=sides, first=first, has_bias=False,
            activation="none",
        )  # fmt: skip
        error, allowed, arguments, found = _against_torch(case, trial)
        return error if torch.equal(found, trial.run(case, arguments)) else float("inf"), allowed

    return run


def _against_torch(case: LayerCase, trial: Trial) -> tuple[float, float, Arguments, Tensor]:
    """Error of a result, twice that of torch's in the same dtype, the arguments and the result."""
    arguments = case.arguments(trial.operands)
    exact = _by_torch(case, arguments, torch.float64, CPU)
    theirs = _rms(_by_torch(case, arguments, case.dtype, trial.device) - exact) / _rms(exact)
    found = trial.run(case, arguments)
    ours = _rms(found.cpu().double() - exact) / _rms(exact)
    return ours.nan_to_num(nan=float("inf")).item(), round_digits(2 * theirs.item(), 3), arguments, found


def _by_torch(case: LayerCase, arguments: Arguments, dtype: torch.dtype, device: torch.device) -> Tensor:
    """δW + ε(a+δ)U by torch in a dtype, on a device; the result in float64 on the CPU."""
    _, a, differences, w, _, directions, weight_id, _, epsilons, *_ = arguments
    field = torch.empty(directions.num, *w.shape, dtype=torch.float64)
    reference.sample(field, directions, weight_id, case.dtype)
    base, weight = a.to(device, dtype), w.to(device, dtype)
    result = []
    for p, epsilon in enumerate(epsilons):
        u, step = field[p // case.sides].to(device, dtype), epsilon.to(device, dtype)
        if differences is None:
            result.append(step.double() * case.product(base, u).double())
            continue
        delta = differences[p].to(device, dtype)
        moved = step * (base + delta)
        result.append((case.product(delta, weight) + case.product(moved, u)).double())
    return torch.stack(result).cpu()


def _finished(make: Make, activation: str, distribution: str) -> Run:
    """With bias and activation, in float32."""

    def run(trial: Trial) -> tuple[float, float]:
        case = make(directions=trial.directions(distribution), sides=2, activation=activation)
        drawn = 0.0 if distribution == "rademacher" else 1e-5
        return relative_error(*trial.compare(case)), WHOLE_ERROR + drawn

    return run


def _network(squared: bool, sides: int) -> Run:
    """A network of four layers in one launch, its second weight not trained."""

    def run(trial: Trial) -> tuple[float, float]:
        case = NetworkCase(
            directions=trial.directions("rademacher"), widths=(65, 37, 13, 67, 40), samples=17, sides=sides,
            activations=("tanh", "gelu", "relu"), untrained=(1,), squared=squared,
        )  # fmt: skip
        return relative_error(*trial.compare(case)), WHOLE_ERROR

    return run


def _rms(tensor: Tensor) -> Tensor:
    return tensor.square().mean().sqrt()


_linear = partial(Check, "perturbed_linear")
_image = partial(Check, "perturbed_conv2d")
_whole = partial(Check, "mlp_differences")

LAYERS = (
    _linear("256 × 4096 × 4096, signs, bfloat16", HALF, _wide(256, "rademacher")),
    _linear("512 × 4096 × 4096, staged signs, bfloat16", HALF, _wide(512, "rademacher")),
    _linear("256 × 4096 × 4096, both sides, bfloat16", HALF, _wide(256, "rademacher", sides=2)),
    _linear("256 × 4096 × 4096, first layer, bfloat16", HALF, _wide(256, "rademacher", first=True)),
    _linear("256 × 4096 × 4096, Gaussian, bfloat16", HALF, _wide(256, "gaussian")),
    _linear("middle layer, signs", FLOAT, _products(LINEAR, "rademacher", FLOAT)),
    _linear("middle layer, both sides", FLOAT, _products(LINEAR, "rademacher", FLOAT, sides=2)),
    _linear("first layer, both sides", FLOAT, _products(LINEAR, "rademacher", FLOAT, sides=2, first=True)),
    _linear("middle layer, signs, bfloat16", HALF, _products(LINEAR, "rademacher", HALF)),
    _linear("middle layer, both sides, bfloat16", HALF, _products(LINEAR, "rademacher", HALF, sides=2)),
    _linear("first layer, bfloat16", HALF, _products(LINEAR, "rademacher", HALF, first=True)),
    _linear("whole tiles, signs, bfloat16", HALF, _products(ALIGNED, "rademacher", HALF)),
    _linear("whole tiles, both sides, bfloat16", HALF, _products(ALIGNED, "rademacher", HALF, sides=2)),
    _linear("Gaussian, bfloat16", HALF, _products(LINEAR, "gaussian", HALF)),
    _linear("signs of rank 3, bfloat16", HALF, _products(LINEAR, "rademacher", HALF, rank=3)),
    _linear("bias and GELU", FLOAT, _finished(LINEAR, "gelu", "rademacher")),
    _linear("Gaussian, bias and tanh", FLOAT, _finished(LINEAR, "tanh", "gaussian")),
    _image("groups, strides", FLOAT, _products(CONVOLUTION, "rademacher", FLOAT)),
    _image("both sides, bfloat16", HALF, _products(CONVOLUTION, "rademacher", HALF, sides=2)),
    _image("bias and SiLU", FLOAT, _finished(CONVOLUTION, "silu", "rademacher")),
    _whole("cross-entropy, both sides", FLOAT, _network(False, 2)),
    _whole("squared error", FLOAT, _network(True, 1)),
)
